"""Real photos: train on BCCD `trainval` from scratch, test on `test`, through the public API only.

    SSD_FASTAI_DATA=/folder/with/bccd python tests/bench/bccd.py [epochs] [seed] [threads] [timm model]

Small photos (128x176), with a fine grid (stride 4) for the platelets. Prints the AP of each class and
the time of all of it: reading, fitting the default boxes, training, AP.
"""
import sys, time, warnings
warnings.filterwarnings('ignore')
import matplotlib; matplotlib.use('Agg')
from ssd_fastai.all import *
from photos import bccd

def main(epochs:int=40, seed:int=42, threads:int=2, arch:str="resnet10t"):
    start = time.perf_counter(); torch.set_num_threads(threads)
    set_seed(seed, reproducible=True)
    (train,valid),size = bccd(),(128,176)
    dls = BBoxDataLoaders.from_annotations(train, valid, size=size, bs=8, item_tfms=ssd_tfms(size, flip_vert=True)[0])
    learn = ssd_learner(dls, arch, pretrained=False, strides=(4,8,16), width=64)
    with learn.no_bar(),learn.no_logging(): learn.fine_tune(epochs, 2e-3)
    ap = learn.ap_per_class()
    print(ap.round(3).to_string())
    print(f'AP {ap["AP"].mean():.3f}   AP50 {ap["AP50"].mean():.3f}   {time.perf_counter()-start:.0f} s on {torch.get_num_threads()} threads, torch {torch.__version__}, seed {seed}')

if __name__=='__main__': main(*map(int,sys.argv[1:4]), *sys.argv[4:5])

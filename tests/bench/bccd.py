"""Real photos: train on BCCD `trainval` from scratch, test on `test`, through the public API only.

    SSD_FASTAI_DATA=/folder/with/bccd python tests/bench/bccd.py [epochs] [seed] [threads] [timm model]

Small photos (128x176), with a fine grid (stride 4) for the platelets. Prints the AP of each class and
the time of all of it: reading, fitting the default boxes, training, AP.
"""
import sys, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
from ssd_fastai.all import *
from clock import seconds, train_quietly
from photos import bccd

def job(epochs, seed, arch, size=(128,176)):
    "AP of each class"
    set_seed(seed, reproducible=True)
    train,valid = bccd()
    dls = BBoxDataLoaders.from_annotations(train, valid, size=size, bs=8, tfms=ssd_tfms(size, flip_vert=True))
    learn = ssd_learner(dls, arch, pretrained=False, strides=(4,8,16), width=64)
    return train_quietly(learn, 'fine_tune', epochs, 2e-3).ap_per_class()

def main(epochs:int=40, seed:int=42, threads:int=2, arch:str='resnet10t'):
    torch.set_num_threads(threads)
    t,ap = seconds(lambda: job(epochs, seed, arch))
    print(ap.round(3).to_string())
    print(f'AP {ap["AP"].mean():.3f}   AP50 {ap["AP50"].mean():.3f}   {t:.0f} s on {threads} threads, '
          f'torch {torch.__version__}, seed {seed}')

if __name__=='__main__': main(*map(int,sys.argv[1:4]), *sys.argv[4:5])

"""The published detectors, from scratch, through the same five lines: AP on the sample or on BCCD, and the CPU time it
took.

    [SSD_FASTAI_DATA=/folder/with/bccd] python tests/bench/published.py \\
        model sample|bccd [epochs] [learning rate] [seed] [batch] [threads]

model: ssd300_vgg16, ssd512_vgg16, ssdlite320_mobilenet_v3_large, ssdlite320_mobilenet_v2. Prints the time of all of it
(reading, training, AP). `ssd_tfms`; AdamW, one cycle; default boxes fitted to the model's own grids, k=6; no pretrained
weights.
"""
import sys, time, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
import ssd_fastai.all as lib
from ssd_fastai.all import *
from ssd_fastai.data.augment import zooms_of
from clock import seconds
from photos import bccd, sample

def job(arch, name, epochs, lr, seed, bs):
    "AP of each class"
    set_seed(seed, reproducible=True)
    note = arch.published
    dls = BBoxDataLoaders.from_annotations(*dict(sample=sample,bccd=bccd)[name](), size=note.size, bs=bs)
    train,grids = Annotations(dls.records[0],dls.vocab),published_boxes(note.boxes).grids
    boxes = fit_default_boxes(train, grids, k=6, zooms=zooms_of(dls.train.after_item))
    learn = ssd_learner(dls, arch, pretrained=False, boxes=boxes)
    with learn.no_bar(): learn.fine_tune(epochs, lr)
    return learn.ap_per_class()

def main(model:str, name:str='sample', epochs:int=10, lr:float=1e-3, seed:int=42, bs:int=8, threads:int=1):
    torch.set_num_threads(threads)
    start = time.process_time()
    t,ap = seconds(lambda: job(getattr(lib,model), name, epochs, lr, seed, bs))
    cpu = (time.process_time()-start)/60
    print(ap.round(3).to_string())
    print(f'{model} on {name}: AP {ap["AP"].mean():.3f}   AP50 {ap["AP50"].mean():.3f}   {epochs} epochs, '
          f'learning rate {lr}, batch {bs}, seed {seed}; {t:.0f} s, CPU {cpu:.1f} min, {threads} thread(s), '
          f'torch {torch.__version__}', flush=True)

if __name__=='__main__': main(*sys.argv[1:3], *[f(v) for f,v in zip((int,float,int,int,int),sys.argv[3:8])])

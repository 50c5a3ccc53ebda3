"""How long 1000 resamples of 60 photos take: CPU seconds on one core, for AP, AP50 and each class.

    python tests/bench/interval.py
"""
import contextlib, io, time, warnings
warnings.filterwarnings('ignore')
import torch
from ssd_fastai.all import *
from clock import train_quietly
from photos import sample

def main():
    torch.set_num_threads(1)
    set_seed(42, reproducible=True)
    with contextlib.redirect_stdout(io.StringIO()):
        dls = BBoxDataLoaders.from_annotations(*sample(), size=(96,128), bs=4)
        learn = ssd_learner(dls, 'resnet10t', pretrained=False)
        train_quietly(learn, 'fine_tune', 2)
        mis = learn.mistakes()
    start = time.process_time()
    mis.interval(1000)
    n = sum(len(p.scores) for p in mis.photos)
    print(f'\n{len(mis)} photos, {n} detections, 1000 resamples: {time.process_time()-start:.1f} s')

if __name__=='__main__': main()

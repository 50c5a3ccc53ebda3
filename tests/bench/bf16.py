"""bfloat16 on a CPU: does anything become NaN? The detectors of course 01 and 08 at the sizes of all profiles.

    python tests/bench/bf16.py [seeds] [steps]

Strides go past 1×1 where the photos are small. Counts the runs with a loss, a gradient or a weight that is not finite.
"""
import sys, warnings
from functools import partial
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
from torchvision.models import resnet18
from fastai.callback.core import Callback
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from ssd_fastai.data.block import BBoxDataLoaders
from ssd_fastai.ssd.anchors import published_boxes
from ssd_fastai.ssd.model import feature_grids, ssd_body
from ssd_fastai.train.learner import ssd_learner
from ssd_fastai.use.settings import course_settings
from photos import sample

class Finite(Callback):
    "Counts gradients and losses that are not finite"
    order,run_valid = 90,False
    def __init__(self): self.bad = 0
    def before_step(self):
        grads = [p.grad for p in self.learn.model.parameters() if p.grad is not None]
        self.bad += not (self.learn.loss.isfinite().all() and all(g.isfinite().all() for g in grads))

def detectors(size, strides=(8,16,32,64,128,256)):
    "(name, arguments of `ssd_learner`): as course 01, and as the steps of course 08"
    grids = feature_grids(ssd_body('resnet10t',strides,pretrained=False), sorted(strides), size)
    yield 'course 01',dict(arch=resnet18)
    small = dict(arch='resnet10t', strides=strides, opt_func=partial(SGD,mom=.9))
    yield 'course 08, published boxes',dict(small, boxes=published_boxes('ssd300_coco',grids))
    yield 'course 08, fitted boxes',small

def main(seeds:int=10, n:int=4):
    train,valid = sample()
    sizes = sorted({s for p in ('quick','laptop','full') for s in (course_settings(p).size,course_settings(p).ablation['size'])})
    for size in sizes:
        dls = BBoxDataLoaders.from_annotations(train[:4*n], valid[:4], size=size, bs=4)
        for name,kw in detectors(size):
            bad = 0
            for seed in range(seeds):
                set_seed(seed)
                guard = Finite()
                learn = ssd_learner(dls, pretrained=False, precision='bf16', cbs=guard, **kw)
                try:
                    with learn.no_bar(),learn.no_logging(): learn.fit(1, 1e-3)
                except FloatingPointError: guard.bad += 1
                bad += guard.bad>0
            print(f'{size} {name}: {bad} of {seeds} runs with something that is not finite', flush=True)

if __name__=='__main__': main(*map(int,sys.argv[1:3]))

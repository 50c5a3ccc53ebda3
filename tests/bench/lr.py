"""Is the suggested learning rate a good one? What `lr_inflections` suggests, beside a grid around it, three seeds.

    python tests/bench/lr.py [sample|bccd] [photos] [epochs] [seeds]

For `bccd` the variable SSD_FASTAI_DATA names the folder that holds it. A body from scratch, small photos, one-cycle.
"""
import sys, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
from ssd_fastai.all import *
from clock import seconds, train_quietly
from photos import bccd, sample

def learner(name, n, seed, size=(96,128)):
    set_seed(seed, reproducible=True)
    train,valid = dict(sample=sample, bccd=bccd)[name]()
    tfms = ssd_tfms(size, flip_vert=True)
    dls = BBoxDataLoaders.from_annotations(train[:n], valid[:48], size=size, bs=8, tfms=tfms)
    return ssd_learner(dls, 'resnet10t', pretrained=False, strides=(4,8,16), metrics=coco_metrics())

def suggestion(name, n, seed):
    learn = learner(name, n, seed)
    with learn.no_bar(): return learn.lr_inflections(show=False).lr

def grid(name, n, seed, epochs, lr):
    "AP50 at the suggestion and around it: rows of (seed, times, AP50)"
    for times in (1/9,1/3,1,3,9):
        learn = learner(name, n, seed)
        t,_ = seconds(lambda: train_quietly(learn, 'fit_one_cycle', epochs, lr*times))
        ap50 = learn.final_record[-1]
        print(f'{name} seed {seed} suggested {lr:.2e} × {times:.2f}: AP50 {ap50:.3f} ({t:.0f} s)', flush=True)
        yield seed,times,ap50

def main(name:str='sample', n:int=120, epochs:int=5, seeds:int=3):
    rows = []
    for seed in range(seeds):
        lr = suggestion(name, n, seed)
        if lr: rows += grid(name, n, seed, epochs, lr)
        else: print(f'{name} seed {seed}: no suggestion')
    if not rows: return
    df = pd.DataFrame(rows, columns=['seed','times','AP50'])
    table = df.pivot_table(index='times', columns='seed', values='AP50')
    table['mean'] = table.mean(axis=1)
    best,ours = table['mean'].max(),table.loc[1.,'mean']
    print(f'{table.round(3).to_string()}\nbest {best:.3f}, suggested {ours:.3f}, short of the best by {best-ours:.3f}')

if __name__=='__main__': main(*sys.argv[1:2], *map(int,sys.argv[2:5]))

"""Is the suggested rate a good one? The rate that `lr_inflections` suggests beside a grid around it, three seeds.

    python tests/bench/lr.py [sample|bccd] [photos] [epochs] [seeds]

For `bccd` the variable SSD_FASTAI_DATA names the folder that holds it. A body from scratch, small photos, one-cycle.
"""
import sys, time, warnings
warnings.filterwarnings('ignore')
import matplotlib; matplotlib.use('Agg')
from ssd_fastai.all import *
from photos import sample, bccd

def data(name, n, size=(96,128)):
    train,valid = dict(sample=sample,bccd=bccd)[name]()
    return BBoxDataLoaders.from_annotations(train[:n], valid[:48], size=size, bs=8, item_tfms=ssd_tfms(size, flip_vert=True)[0])

def main(name:str='sample', n:int=120, epochs:int=5, seeds:int=3):
    rows = []
    for seed in range(seeds):
        def learner():
            set_seed(seed, reproducible=True)
            return ssd_learner(data(name,n), 'resnet10t', pretrained=False, strides=(4,8,16), metrics=coco_metrics())
        learn = learner()
        with learn.no_bar(): lr = learn.lr_inflections(show=False).lr
        if lr is None: print(f'{name} seed {seed}: no suggestion'); continue
        for times in (1/9,1/3,1,3,9):
            learn = learner(); start = time.perf_counter()
            with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(epochs, lr*times)
            rows.append((seed,lr,times,learn.final_record[-1])); print(f'{name} seed {seed} suggested {lr:.2e} × {times:.2f}: AP50 {rows[-1][-1]:.3f} ({time.perf_counter()-start:.0f} s)', flush=True)
    t = pd.DataFrame(rows, columns=['seed','lr','times','AP50']).pivot_table(index='times', columns='seed', values='AP50'); t['mean'] = t.mean(axis=1)
    print(t.round(3).to_string()); print(f'best {t["mean"].max():.3f}, suggested {t.loc[1.,"mean"]:.3f}, short of the best by {t["mean"].max()-t.loc[1.,"mean"]:.3f}')

if __name__=='__main__': main(*sys.argv[1:2], *map(int,sys.argv[2:5]))

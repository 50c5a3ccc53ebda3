"""Are chosen thresholds better than .3? F1 of each class on the half of the validation photos that they were not chosen on.

    SSD_FASTAI_DATA=/folder/with/bccd python tests/bench/thresholds.py [sample|bccd|both] [seed,seed,…]

The sample: the README's recipe. BCCD: EfficientNet-Lite0 with the weights of the extra [lite], 160×208, 14 epochs. Each half
takes its turn; the F1 is that of both together.
"""
import contextlib, io, sys, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
import torch
from ssd_fastai.all import *
from clock import train_quietly
from photos import bccd, sample

def learner(name, seed):
    set_seed(seed, reproducible=True)
    with contextlib.redirect_stdout(io.StringIO()):
        if name=='sample':
            dls = BBoxDataLoaders.from_annotations(*sample(), size=(192,256), bs=4)
            return train_quietly(ssd_learner(dls, resnet18, pretrained=False), 'fine_tune', 4)
        dls = BBoxDataLoaders.from_annotations(*bccd(), tfms=ssd_tfms((160,208),True))
        return train_quietly(ssd_learner(dls, 'tf_efficientnet_lite0'), 'fine_tune', 14)

def counts(mis):
    "Class → (hits, objects, detections)"
    t = mis.table()
    t = t[t.kind!='ignored'] if 'ignored' in set(t.kind) else t
    hit,obj,det = t[(t.what=='object')&(t.kind=='found')],t[t.what=='object'],t[t.what=='detection']
    return np.array([[(o['class']==v).sum() for o in (hit,obj,det)] for v in mis.vocab])

def main(sets='both', seeds='1'):
    torch.set_num_threads(1)
    for name in ('sample','bccd') if sets=='both' else (sets,):
        for seed in map(int,seeds.split(',')):
            mis = learner(name,seed).mistakes()
            halves = [Mistakes(mis.photos[i::2], mis.vocab) for i in (0,1)]
            fixed,chosen = 0,0
            for a,b in (halves,halves[::-1]):
                b.min_score = .3
                fixed = fixed+counts(b)
                b.min_score = a.thresholds()
                chosen = chosen+counts(b)
            df = pd.DataFrame({k:2*c[:,0]/(c[:,1]+c[:,2]) for k,c in (('at .3',fixed),('chosen',chosen))}, index=mis.vocab)
            print(name, 'seed', seed, df.round(3).T.to_dict(), flush=True)

if __name__=='__main__': main(*sys.argv[1:])

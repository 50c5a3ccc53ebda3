"""Do the inflection points drift? Looks at four moments of a training, on two sets: the points, and what is suggested.

    python tests/bench/looks.py [sample|bccd|both] [seed,seed,…] [file.json]

A body from scratch on 120 small photos, as in tests/bench/lr.py; 5 epochs at 5e-3, then 10 and 15 at 2e-3. `file.json` keeps
the recordings: tests/looks.json was made with `both 0`. For `bccd` the variable SSD_FASTAI_DATA names the folder that holds it.
"""
import json, sys, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
import torch
from ssd_fastai.all import *
from ssd_fastai.train.lr import analyze_look
from clock import train_quietly
from lr import learner

def looks(name, seed):
    "(epochs, `Look`) of a training at four moments"
    learn,at = learner(name,120,seed),0
    for epochs in (0,5,15,30):
        if epochs: train_quietly(learn, 'fit_one_cycle', epochs-at, 2e-3 if at else 5e-3)
        at = epochs
        with learn.no_bar(): learn.lr_inflections(show=False)
        yield epochs,learn.look

def main(sets='both', seeds='0', file=None):
    torch.set_num_threads(1)
    kept = []
    for name in ('sample','bccd') if sets=='both' else (sets,):
        for seed in map(int,seeds.split(',')):
            for epochs,look in looks(name,seed):
                _,_,stop,pts,why = analyze_look(look)
                found = ', '.join(f'{p.lr:.1e} {p.curve}{" strong"*p.strong}' for p in pts) or why
                print(f'{name} seed {seed} after {epochs} epochs: {found}; explodes at {10**stop:.1e}', flush=True)
                kept.append(dict(set=name, seed=seed, epochs=epochs, look=[[float(f'{v:.6g}') for v in o] for o in look]))
    if file: Path(file).write_text(json.dumps(kept))

if __name__=='__main__': main(*sys.argv[1:])

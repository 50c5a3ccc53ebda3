"""What boosters in the trunk of the 2018 SSD do for small objects: AP of each class, with and without, three seeds.

    python tests/bench/boosters.py [sample|bccd] [seed,seed,…] [epochs]

Windows of a quarter of a photo, 224 pixels, EfficientNet-Lite0 with the weights of the extra [lite], dropout .1, one-cycle at
2e-3 with everything trained, as in published/02_ssd_2018.
For `bccd` the variable SSD_FASTAI_DATA names the folder that holds it.
"""
import sys, tempfile, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
import torch
from ssd_fastai.all import *
from clock import train_quietly
from photos import bccd, sample

def quarters(ann, n):
    "A quarter of each of `n` photos, with the objects that lie in it by more than half"
    tmp,res = Path(tempfile.mkdtemp()),[]
    for i,r in enumerate(ann[:n]):
        w,h = (s//2 for s in r.size)
        x,y = i%2*w,i//2%2*h
        open_photo(r.path).crop((x,y,x+w,y+h)).save(tmp/f'{i}.png')
        b = (r.boxes-[x,y,x,y]).clip(0,[w,h,w,h])
        ok = (b[:,2:]-b[:,:2]).prod(1)>.5*(r.boxes[:,2:]-r.boxes[:,:2]).prod(1)
        res.append(Record(tmp/f'{i}.png', (w,h), b[ok].astype(np.float32), [l for l,o in zip(r.labels,ok) if o]))
    return Annotations(res, ann.vocab)

def main(name='sample', seeds='1,2,3', epochs='12'):
    torch.set_num_threads(1)
    train,valid = dict(sample=sample,bccd=bccd)[name]()
    near,rows = (quarters(train,160),quarters(valid,48)),[]
    for seed in map(int,seeds.split(',')):
        for boosters in (0,1):
            set_seed(seed, reproducible=True)
            dls = BBoxDataLoaders.from_annotations(*near, size=224, bs=8, stats=([.5]*3,[.5]*3))
            learn = ssd_learner_2018(dls, 'tf_efficientnet_lite0', drop=.1, boosters=boosters)
            learn.unfreeze()
            train_quietly(learn, 'fit_one_cycle', int(epochs), 2e-3)
            for c,t in learn.ap_per_class().iterrows(): rows.append((boosters,c,t.AP,t.AP50))
    df = pd.DataFrame(rows, columns=['boosters','class','AP','AP50'])
    g = df.groupby(['class','boosters'])[['AP','AP50']].agg(['median','min','max']).round(3)
    print(name, g.to_string(), sep='\n')

if __name__=='__main__': main(*sys.argv[1:])

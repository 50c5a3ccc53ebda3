"""What the choices of an SSD are worth on real photos: AP on BCCD `test` after the same few epochs, three seeds.

    SSD_FASTAI_DATA=/folder/with/bccd python tests/bench/choices.py [epochs] [choice,choice,…] [seed,seed,…]

fitted: default boxes fitted to the objects (the library's default). ssd300_voc, fastai2018: those published shapes on the same body, each with
its own strides. boosters: one booster convolution. balanced: class weights. bias -4: the lesson's bias instead of the counted one. giou: GIoU on
the boxes. Then, on the sample with a third of its training photos without objects: a minimum of 32 negatives in each photo, and none.
"""
import sys, time, warnings
warnings.filterwarnings('ignore')
import matplotlib; matplotlib.use('Agg')
from ssd_fastai.all import *
from ssd_fastai.train.metrics import by_class
from photos import bccd

ours = dict(strides=(4,8,16))
choices = dict(fitted=ours, ssd300_voc=dict(boxes='ssd300_voc'), fastai2018=dict(boxes='fastai2018'), boosters=dict(ours,boosters=1), balanced=dict(ours,class_weight='balanced'),
               **{'bias -4':dict(ours,bias=-4.), 'giou':dict(ours,loss_kw=dict(box_kind='giou',box_weight=2.5))})
empties = {'min_neg=32':dict(ours), 'min_neg=0':dict(ours,loss_kw=dict(min_neg=0))}

def third_empty():
    "A sample in which every third photo is empty"
    path = make_cells(n=180, valid_pct=.4, empty_every=3)
    return [read_coco(path/f'{o}.json', path/'images') for o in ('train','valid')]

def one(name, kw, train, valid, epochs, seed, size=(112,144)):
    set_seed(seed, reproducible=True)
    dls = BBoxDataLoaders.from_annotations(train, valid, size=size, bs=8)
    learn = ssd_learner(dls, 'resnet10t', pretrained=False, width=64, **kw)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(epochs, 2e-3)
    ev = CocoEvaluator(); m = learn.eval_model(); false = photos = 0
    with torch.no_grad():
        for xb,*yb in dls.valid: ev.add_batch(m, m(xb), yb, dls.valid, dls.vocab)
    for r in valid:
        if not r.labels: photos += 1; false += len(learn.predict(r.path,min_score=.3))
    ap = by_class(ev)
    cover = coverage(learn.default_boxes, train)['covered %'].min()
    return dict(choice=name, seed=seed, AP=ap['AP'].mean(), AP50=ap['AP50'].mean(), **{f'AP50 {k}':v for k,v in ap['AP50'].items()}, **{'covered % (worst class)':cover, 'false alarms on empty photos':false/photos if photos else float('nan')})

def main(epochs=6, names=','.join([*choices,*empties]), seeds='1,2,3'):
    rows,real,blank = [],bccd(),third_empty()
    for seed in map(int,seeds.split(',')):
        for name in names.split(','):
            t = time.perf_counter(); data,kw = (blank,empties[name]) if name in empties else (real,choices[name])
            rows.append(one(name, kw, *data, int(epochs)*(2 if name in empties else 1), seed))
            print({k:round(v,3) if isinstance(v,float) else v for k,v in rows[-1].items()}, f'{time.perf_counter()-t:.0f} s', flush=True)
    g = pd.DataFrame(rows).groupby('choice',sort=False)
    cols = [c for c in rows[0] if c not in ('choice','seed')]
    res = pd.DataFrame({c:g[c].mean() for c in cols}); res.insert(2,'AP50 spread',g['AP50'].max()-g['AP50'].min())
    print(f'\n{epochs} epochs ({2*int(epochs)} for the sample), 112x144, resnet10t from scratch, means over seeds {seeds}, torch {torch.__version__}\n{res.round(3).to_string()}')

if __name__=='__main__': main(*sys.argv[1:])

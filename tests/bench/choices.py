"""What the choices of an SSD are worth on real photos: AP on BCCD `test` after the same few epochs, three seeds.

    SSD_FASTAI_DATA=/folder/with/bccd python tests/bench/choices.py [epochs] [choice,choice,…] [seed,seed,…]

fitted: default boxes fitted to the objects (the library's default). ssd300_voc, fastai2018: those published shapes on
the same body, each with its own strides. boosters: one booster convolution. balanced: class weights. bias -4: the
lesson's bias instead of the counted one. giou: GIoU on the boxes. Then, on the sample with a third of its training
photos without objects: a minimum of 32 negatives in each photo, and none.
"""
import sys, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
from ssd_fastai.all import *
from ssd_fastai.train.metrics import by_class
from clock import rounded, seconds, train_quietly
from photos import bccd

ours = dict(strides=(4,8,16))
choices = {'fitted':     ours,
           'ssd300_voc': dict(boxes='ssd300_voc'),
           'fastai2018': dict(boxes='fastai2018'),
           'boosters':   dict(ours, boosters=1),
           'balanced':   dict(ours, class_weight='balanced'),
           'bias -4':    dict(ours, bias=-4.),
           'giou':       dict(ours, loss_kw=dict(box_kind='giou', box_weight=2.5))}
empties = {'min_neg=32': dict(ours), 'min_neg=0': dict(ours, loss_kw=dict(min_neg=0))}

def third_empty():
    "A sample in which every third photo is empty"
    path = make_cells(n=180, valid_pct=.4, empty_every=3)
    return [read_coco(path/f'{o}.json', path/'images') for o in ('train','valid')]

def measure(learn):
    "AP of each class, of the validation set"
    ev,model,dls = CocoEvaluator(),learn.eval_model(),learn.dls
    with torch.no_grad():
        for xb,*yb in dls.valid: ev.add_batch(model, model(xb), yb, dls.valid, dls.vocab)
    return by_class(ev)

def false_alarms(learn, ann):
    "Detections on a photo without objects, on average"
    found = [len(learn.predict(r.path, min_score=.3)) for r in ann if not r.labels]
    return sum(found)/len(found) if found else float('nan')

def one(name, kw, train, valid, epochs, seed, size=(112,144)):
    "One training, measured"
    set_seed(seed, reproducible=True)
    dls = BBoxDataLoaders.from_annotations(train, valid, size=size, bs=8)
    learn = ssd_learner(dls, 'resnet10t', pretrained=False, width=64, **kw)
    ap = measure(train_quietly(learn, 'fine_tune', epochs, 2e-3))
    row = dict(choice=name, seed=seed, AP=ap['AP'].mean(), AP50=ap['AP50'].mean())
    row |= {f'AP50 {k}':v for k,v in ap['AP50'].items()}
    row['covered % (worst class)'] = coverage(learn.default_boxes, train)['covered %'].min()
    row['false alarms on empty photos'] = false_alarms(learn, valid)
    return row

def table(rows):
    "Means over the seeds, and how far the AP50 of the seeds lie apart"
    g = pd.DataFrame(rows).groupby('choice', sort=False)
    res = g.mean().drop(columns='seed')
    res.insert(2, 'AP50 spread', g['AP50'].max()-g['AP50'].min())
    return res.round(3).to_string()

def main(epochs=6, names=','.join([*choices,*empties]), seeds='1,2,3'):
    epochs,real,blank,rows = int(epochs),bccd(),third_empty(),[]
    for seed in map(int, seeds.split(',')):
        for name in names.split(','):
            if name in empties: t,row = seconds(lambda: one(name, empties[name], *blank, 2*epochs, seed))
            else:               t,row = seconds(lambda: one(name, choices[name], *real, epochs, seed))
            rows.append(row)
            print(rounded(row), f'{t:.0f} s', flush=True)
    print(f'\n{epochs} epochs ({2*epochs} for the sample), 112x144, resnet10t from scratch, means over seeds {seeds}, '
          f'torch {torch.__version__}\n{table(rows)}')

if __name__=='__main__': main(*sys.argv[1:])

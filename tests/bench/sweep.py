"""Every photo through every transform and policy, every box accounted for.

    [SSD_FASTAI_DATA=/folder/with/bccd] python tests/bench/sweep.py [photos]

Photos from the sample, BCCD and a set of adversarial boxes (tiny, huge, at the edges, on top of each other, none at
all) go through each recipe; the box statistics raise at a transform whose sums do not agree. Counted again at the end,
independently: boxes that are missing without a reason, outside the picture, of no area, and labels that occur twice or
belong to no box of the photo (each object has a class of its own: its number). Whether a box is still on *its* object
is what the painted colors of tests/test_geometry.py show.
"""
import os, random, sys, warnings
warnings.filterwarnings('ignore')
from ssd_fastai.all import *
from ssd_fastai.data.box_stats import BoxReport, Watched
from ssd_fastai.data.policies import policies
from photos import bccd, sample

def nasty_boxes(rng, w, h, k):
    "Up to `k` boxes of all sizes, at the edges and on top of each other"
    lo = rng.uniform(0, .99, (k,2))
    wh = np.minimum(rng.choice([.004,.02,.3,1.],(k,2)), 1-lo)
    b = np.concatenate([lo,lo+wh],1)*[w,h,w,h]
    if k==3: b[:] = [0,0,w,h],[w-1,h-1,w,h],[w-1,h-1,w,h]
    return b[((b[:,2:]-b[:,:2])>.5).all(1)]

def adversarial(n=60):
    "Photos of odd sizes with nasty boxes"
    rng,d,rs = np.random.default_rng(0),Path(tempfile.mkdtemp()),[]
    for i in range(n):
        w,h = int(rng.integers(20,300)),int(rng.integers(20,300))
        f = d/f'{i}.png'
        Image.fromarray(rng.integers(0,255,(h,w,3)).astype(np.uint8)).save(f)
        b = nasty_boxes(rng, w, h, [0,1,3,40][i%4])
        rs.append(Record(f,(w,h),b.tolist(),['a']*len(b)))
    return Annotations(rs,['a'])

def moves():
    "One of each transform, by name"
    several = BoxMoves(BoxRotate(30.),BoxWarp(.2),BoxZoom(1.5),BoxIoUCrop())
    res = [BoxFlip(1.),BoxDihedral(),BoxRotate(45.,1.),BoxRotate(45.,1.,round=True),BoxZoom(2.,p=1.),
           BoxExpand(4.,1.),BoxWarp(.3,1.),BoxIoUCrop(),several]
    return {type(m).__name__+(' round' if m.round else ''):m for m in res}

def recipes(size):
    "(item transforms, batch transforms) by name"
    items,batch = ssd_tfms(size)
    paper,_ = ssd_tfms(size, flip_vert=True, paper=True)
    aug = aug_transforms(flip_vert=True, max_rotate=45., max_zoom=2., max_warp=.3, pad_mode='zeros')
    res = {'ssd_tfms':(items,batch), 'ssd_tfms(paper)':(paper,batch), 'pad':([RandomWindow(size,method='pad')],[]),
           'crop':([BoxResize(size,'crop')],[]), 'aug_transforms':(items,aug)}
    for name,m in moves().items():
        res[f'{name} item'] = [m,BoxResize(size)],[]
        res[f'{name} batch'] = [BoxResize(size)],[copy(m)]
    for v in policies: res[f'policy {v}'] = [detection_autoaugment(v),BoxResize(size)],[]
    return res

def numbered(ann):
    "The same photos, with each box in a class of its own: its place in its photo"
    vocab = [str(i) for i in range(max([1]+[len(r.labels) for r in ann]))]
    return Annotations([Record(r.path,r.size,r.boxes,vocab[:len(r.labels)]) for r in ann], vocab)

def some(ann, n):
    "Up to `n` photos, at least one of them with objects"
    part = Annotations(random.sample(ann.records, min(len(ann),n)), ann.vocab)
    if any(r.labels for r in part): return part
    return Annotations(part.records+[next(r for r in ann if r.labels)], ann.vocab)

def watched(part, items, batch, size, stats):
    "A loader of these photos whose transforms count into `stats`"
    dls = BBoxDataLoaders.from_annotations(part, part[:1], size=size, bs=min(16,len(part)),
                                           item_tfms=[copy(t) for t in items], batch_tfms=[copy(t) for t in batch])
    dl = dls.train.new(num_workers=0, drop_last=False, shuffle=False)
    for tfms in (dl.after_item,dl.after_batch): tfms.fs = L([Watched(f,stats) for f in tfms.fs])
    return dl

def count_faults(dl, part, size, bad):
    "Add what is wrong with the batches to `bad`"
    for i,(x,b,l) in enumerate(dl):
        b,l = b.as_subclass(Tensor),l.as_subclass(Tensor)
        assert l.dtype==torch.int64 and x.shape[-2:]==size
        real = b[l>0]
        bad['outside'] += (real.abs()>1+1e-5).any(1).sum().item()
        bad['no area'] += ((real[:,2:]-real[:,:2])<=0).any(1).sum().item()
        for r,ll in zip(part.records[i*dl.bs:], l): # no number twice, and none that the photo does not have
            got = ll[ll>0].tolist()
            bad['mismatch'] += len(got)-len(set(got)&set(range(1,len(r.labels)+1)))

def account(stats):
    "Boxes at the start, kept at the end, dropped with a reason"
    rows = list(stats.rows.values())
    if not rows: return dict(boxes=0, kept=0, dropped=0)
    return dict(boxes=rows[0]['boxes'], kept=rows[-1]['kept'], dropped=sum(sum(r['lost'].values()) for r in rows))

def one(ann, items, batch, size, n):
    "A row of the table: `n` photos through one recipe"
    stats,photos = BoxReport(),0
    bad = {k:0 for k in ('unexplained','outside','no area','mismatch')}
    while photos<n:
        part = some(ann, min(n-photos,60))
        count_faults(watched(part, items, batch, size, stats), part, size, bad)
        photos += len(part)
    sums = account(stats)
    bad['unexplained'] = sums['boxes']-sums['dropped']-sums['kept']
    return dict(photos=photos, **sums, **bad)

def show_sums(df):
    cols = ['photos','boxes','kept','dropped','unexplained','outside','no area','mismatch']
    print(f'\n{df.groupby("recipe",sort=False)[cols].sum().to_string()}\n')
    n = df[cols].abs().sum()
    print(f'{n["photos"]} photos, {n["boxes"]} boxes, {n["dropped"]} dropped with a reason; unexplained '
          f'{n["unexplained"]}, outside {n["outside"]}, no area {n["no area"]}, mismatch {n["mismatch"]}')

def main(n=20000, size=(96,128), show=True):
    set_seed(0)
    sets = {'sample':sample()[0], 'adversarial':adversarial()}
    if os.environ.get('SSD_FASTAI_DATA'): sets['BCCD'] = bccd(['train'])[0]
    rs,rows = recipes(size),[]
    each = math.ceil(n/len(rs)/len(sets))
    for data,ann in sets.items():
        ann = numbered(ann)
        for recipe,(items,batch) in rs.items():
            rows.append(dict(data=data, recipe=recipe, **one(ann, items, batch, size, each)))
            if show: print(rows[-1], flush=True)
    df = pd.DataFrame(rows)
    if show: show_sums(df)
    return df

if __name__=='__main__': main(*map(int,sys.argv[1:]))

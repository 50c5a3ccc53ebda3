"""Every photo through every transform and policy, every box accounted for.

    [SSD_FASTAI_DATA=/folder/with/bccd] python tests/bench/sweep.py [photos]

Photos from the sample, BCCD and a set of adversarial boxes (tiny, huge, at the edges, on top of each other, none at all) go through each
recipe; the ledger raises at a transform whose sums do not agree. Counted again at the end, independently: boxes that are missing without a
reason, outside the picture, of no area, and labels that occur twice or belong to no box of the photo (each object has a class of its own: its
number). Whether a box is still on *its* object is what the painted colors of tests/test_geometry.py show.
"""
import os, random, sys, warnings
warnings.filterwarnings('ignore')
from ssd_fastai.all import *
from ssd_fastai.data.box_stats import BoxReport, Watched
from ssd_fastai.data.policies import policies

def adversarial(n=60):
    "Photos of odd sizes with nasty boxes"
    rng,d,rs = np.random.default_rng(0),Path(tempfile.mkdtemp()),[]
    for i in range(n):
        w,h = int(rng.integers(20,300)),int(rng.integers(20,300))
        f = d/f'{i}.png'; Image.fromarray(rng.integers(0,255,(h,w,3)).astype(np.uint8)).save(f)
        k = [0,1,3,40][i%4]; lo = rng.uniform(0,.99,(k,2)); wh = np.minimum(rng.choice([.004,.02,.3,1.],(k,2)),1-lo)
        b = np.concatenate([lo,lo+wh],1)*[w,h,w,h]
        if k==3: b[0] = [0,0,w,h]; b[1] = [w-1,h-1,w,h]; b[2] = b[1]
        keep = ((b[:,2:]-b[:,:2])>.5).all(1); b = b[keep]
        rs.append(Record(f,(w,h),b.tolist(),['a']*len(b)))
    return Annotations(rs,['a'])

def recipes(size):
    items,batch = ssd_tfms(size); paper,_ = ssd_tfms(size,flip_vert=True,paper=True)
    res = {'ssd_tfms':(items,batch), 'ssd_tfms(paper)':(paper,batch), 'pad':([RandomWindow(size,method='pad')],[]), 'crop':([BoxResize(size,'crop')],[]),
           'aug_transforms':(items,aug_transforms(flip_vert=True,max_rotate=45.,max_zoom=2.,max_warp=.3,pad_mode='zeros'))}
    moves = [BoxFlip(1.),BoxDihedral(),BoxRotate(45.,1.),BoxRotate(45.,1.,round=True),BoxZoom(2.,p=1.),BoxExpand(4.,1.),BoxWarp(.3,1.),BoxIoUCrop(),BoxMoves(BoxRotate(30.),BoxWarp(.2),BoxZoom(1.5),BoxIoUCrop())]
    for i,m in enumerate(moves):
        name = type(m).__name__+(' round' if m.round else '')
        res[f'{name} item'] = ([m,BoxResize(size)],[]); res[f'{name} batch'] = ([BoxResize(size)],[copy(m)])
    for v in policies: res[f'policy {v}'] = ([detection_autoaugment(v),BoxResize(size)],[])
    return res

def numbered(ann):
    "The same photos, with each box in a class of its own: its place in its photo"
    most = max([1]+[len(r.labels) for r in ann]); vocab = [str(i) for i in range(most)]
    return Annotations([Record(r.path,r.size,r.boxes,vocab[:len(r.labels)]) for r in ann],vocab)

def main(n=20000, size=(96,128), show=True):
    set_seed(0)
    path = make_cells(); sets = {'sample':read_coco(path/'train.json',path/'images'), 'adversarial':adversarial()}
    if os.environ.get('SSD_FASTAI_DATA'):
        p = Path(os.environ['SSD_FASTAI_DATA'])/'bccd'; sets['BCCD'] = read_voc(p/'JPEGImages',p/'Annotations',p/'ImageSets/Main/train.txt')
    rs,rows = recipes(size),[]
    each = math.ceil(n/len(rs)/len(sets))
    for sname,ann in sets.items():
        ann = numbered(ann)
        for rname,(items,batch) in rs.items():
            led,done,bad = BoxReport(),0,dict(unexplained=0,outside=0,**{'no area':0,'mismatch':0})
            while done<each:
                part = Annotations(random.sample(ann.records,min(len(ann),each-done,60)),ann.vocab); done += len(part)
                if not any(r.labels for r in part): part = Annotations(part.records+[next(r for r in ann if r.labels)],ann.vocab); done += 1
                dls = BBoxDataLoaders.from_annotations(part, part[:1], size=size, bs=min(16,len(part)), item_tfms=[copy(t) for t in items], batch_tfms=[copy(t) for t in batch])
                mine = dls.train.new(num_workers=0, drop_last=False, shuffle=False)
                watch = [Watched(f,led) for f in mine.after_item.fs],[Watched(f,led) for f in mine.after_batch.fs]
                mine.after_item.fs,mine.after_batch.fs = L(watch[0]),L(watch[1])
                for k,(x,b,l) in enumerate(mine):
                    l,b = l.as_subclass(Tensor),b.as_subclass(Tensor)
                    assert l.dtype==torch.int64 and x.shape[-2:]==size
                    real = b[l>0]
                    bad['outside'] += (real.abs()>1+1e-5).any(1).sum().item(); bad['no area'] += ((real[:,2:]-real[:,:2])<=0).any(1).sum().item()
                    for r,ll in zip(part.records[k*mine.bs:],l): # no number twice, and none that the photo does not have
                        got = ll[ll>0].tolist(); bad['mismatch'] += len(got)-len(set(got)&set(range(1,len(r.labels)+1)))
            first = next(iter(led.rows.values())) if led.rows else dict(boxes=0); last = list(led.rows.values())[-1] if led.rows else dict(kept=0)
            lost = sum(sum(r['lost'].values()) for r in led.rows.values())
            bad['unexplained'] = first['boxes']-lost-last['kept']
            rows.append(dict(data=sname,recipe=rname,photos=done,boxes=first['boxes'],kept=last['kept'],dropped=lost,**bad))
            if show: print({**rows[-1]}, flush=True)
    df = pd.DataFrame(rows)
    if show: print(f'\n{df.groupby("recipe",sort=False)[["photos","boxes","kept","dropped","unexplained","outside","no area","mismatch"]].sum().to_string()}\n\n{df["photos"].sum()} photos, {df["boxes"].sum()} boxes, {df["dropped"].sum()} dropped with a reason; unexplained {df["unexplained"].abs().sum()}, outside {df["outside"].sum()}, no area {df["no area"].sum()}, mismatch {df["mismatch"].sum()}')
    return df

if __name__=='__main__': main(*map(int,sys.argv[1:]))

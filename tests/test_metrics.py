"Our collecting, against pycocotools fed by hand"
import contextlib, io
import numpy as np, pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from ssd_fastai.all import *
from ssd_fastai.train.metrics import by_class, summary

def case(seed):
    "Photos with small to large objects, some ignored, some photos empty; detections near them, twice, beside them, or none"
    r = np.random.default_rng(seed)
    vocab = list('abc')[:r.integers(1,4)]
    photos = []
    for _ in range(r.integers(1,9)):
        n = r.integers(0,7)
        wh = 10**r.uniform(.7,2.3,(n,2))
        xy = r.uniform(0,300,(n,2))
        gt = np.concatenate([xy,xy+wh],1).round(2)
        labels,ignore = r.integers(0,len(vocab),n),r.random(n)<.15
        k = r.integers(0,n+1) if n else 0
        pick = r.integers(0,n,2*k) if n else np.zeros(0,int)
        det = gt[pick]+np.tile(r.normal(0,4,(len(pick),2)).round(2),2)
        far = r.uniform(0,300,(r.integers(0,4),2))
        det = np.concatenate([det,np.concatenate([far,far+20],1)])
        score = r.choice([.9,.5,.5,.2],len(det)) if seed%3==0 else r.random(len(det)) # every third with ties
        cls = np.r_[np.where(r.random(len(pick))<.9,labels[pick],0),r.integers(0,len(vocab),len(far))].astype(int)
        photos.append((gt,labels,ignore,det,score,cls))
    return vocab,photos

def by_hand(vocab, photos):
    gt,ann,dets = COCO(),[],[]
    for i,(b,l,ig,d,s,c) in enumerate(photos,1):
        ann += [
            dict(
                id=0,
                image_id=i,
                category_id=int(k) + 1,
                bbox=[x0, y0, x1 - x0, y1 - y0],
                area=(x1 - x0) * (y1 - y0),
                iscrowd=int(g),
            )
            for (x0, y0, x1, y1), k, g in zip(b, l, ig)
        ]
        dets += [
            dict(image_id=i, category_id=int(k) + 1, bbox=[x0, y0, x1 - x0, y1 - y0], score=float(v))
            for (x0, y0, x1, y1), v, k in sorted(zip(d, s, c), key=lambda o: -o[1])
        ]
    for i,a in enumerate(ann,1): a['id'] = i
    gt.dataset = dict(
        info={},
        images=[dict(id=i) for i in range(1, len(photos) + 1)],
        annotations=ann,
        categories=[dict(id=i + 1, name=v) for i, v in enumerate(vocab)],
    )
    if not ann or not dets: return None
    with contextlib.redirect_stdout(io.StringIO()):
        gt.createIndex()
        e = COCOeval(gt,gt.loadRes(dets),'bbox')
        e.evaluate()
        e.accumulate()
        e.summarize()
    return e

def collected(vocab, photos):
    ev = CocoEvaluator()
    for b,l,ig,d,s,c in photos:
        o = np.argsort(-s,kind='stable')
        d,s,c = d[o],s[o],c[o]
        ev.add(Detections(*map(torch.as_tensor,(d,s,c)),vocab), *map(torch.as_tensor,(b,l,ig)))
    return ev

@pytest.mark.parametrize('seed', range(40))
def test_twelve_numbers(seed):
    vocab,photos = case(seed)
    e,ev = by_hand(vocab,photos),collected(vocab,photos)
    quick = summary(ev,areas=False)
    whole = summary(ev) # the short way first: the long one must not be served from it
    assert quick.to_dict()==pytest.approx(whole[quick.index].to_dict(), nan_ok=True, abs=0)
    if e is None:
        assert whole.isna().all() or (whole==0).all()
        return
    np.testing.assert_allclose(whole.fillna(-1), e.stats, atol=1e-4)
    p = e.eval['precision'][:,:,:,0,-1]
    for i,v in enumerate(by_class(ev)['AP']):
        q = p[:,:,i]
        np.testing.assert_allclose(np.nan_to_num(v,nan=-1), q[q>-1].mean() if (q>-1).any() else -1, atol=1e-4)

def test_cases_are_not_trivial():
    aps = [summary(collected(*case(s)))['AP'] for s in range(40)]
    assert sum(.05<a<.95 for a in aps)>20

def test_a_photo_added_later_counts():
    vocab,photos = case(4)
    ev = collected(vocab,photos)
    before = summary(ev)['AP']
    b = torch.tensor([[0.,0,50,50]])
    ev.add(Detections(b[:0],torch.zeros(0),torch.zeros(0).long(),vocab), b, torch.tensor([0]))
    assert summary(ev)['AP']<before

@pytest.mark.parametrize('method', ['squish','pad','crop'])
def test_areas_are_in_the_pixels_of_the_photo(method, cells):
    valid = read_coco(cells/'valid.json', cells/'images')
    size = (96,128) if method=='squish' else (128,128)
    dls = BBoxDataLoaders.from_annotations(valid[:8], valid[:4], size=size, bs=4, item_tfms=BoxResize(size,method))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        m = ssd_learner(dls, 'resnet10t', pretrained=False, metrics=[]).eval_model()
    ev = CocoEvaluator()
    xb,*yb = dls.valid.one_batch()
    ev.add_batch(m, m(xb), yb, dls.valid, dls.vocab)
    for i,r in enumerate(valid[:4],1):
        true = sorted((b[2]-b[0])*(b[3]-b[1]) for b in np.array(r.boxes))
        got = sorted(a['area'] for a in ev.anns if a['image_id']==i)
        if method=='crop':
            assert all(min(abs(g-t)/t for t in true)<.02 or g<max(true) for g in got)
            assert max(got)<=max(true)*1.02
        else: np.testing.assert_allclose(got, true, rtol=.02)

def test_interval_in_the_table_is_that_of_mistakes(train, valid):
    "COCO's evaluation and our own matching give the same bootstrap, photo by photo"
    from ssd_fastai.use.mistakes import find_mistakes
    set_seed(1, reproducible=True)
    dls = BBoxDataLoaders.from_annotations(train[:16], valid[:10], size=(64,96), bs=8)
    learn = ssd_learner(dls, 'resnet10t', pretrained=False, metrics=coco_metrics(('AP','AP50','AR 1'),interval=True))
    assert [m.name for m in learn.metrics]==['AP','AP low','AP high','AP50','AP50 low','AP50 high','AR 1']
    with learn.no_logging(): learn.fine_tune(4)
    want = find_mistakes(learn).interval(n=200)
    got = dict(zip(learn.recorder.metric_names[3:],learn.final_record[2:]))
    for k in ('AP','AP50'):
        assert got[k]==pytest.approx(want.value[k],abs=1e-6)
        assert (got[f'{k} low'],got[f'{k} high'])==pytest.approx((want.low[k],want.high[k]),abs=1e-6)

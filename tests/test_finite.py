"No input that `Annotations` accepts, and no precision, makes a loss or a gradient that is no number"
import numpy as np, torch
from hypothesis import given, settings, strategies as st, HealthCheck
from ssd_fastai.all import *
from ssd_fastai.data.block import BoxCategorize, pad_boxes, record_boxes, record_labels

size,vocab = (48,64),['a','b','c']
edges = [0.,48.,64.,80.,1e-30,-1e-30,1e30,-1e30,np.inf,-np.inf,np.nan,63.999,1e-4]
side = st.one_of(st.floats(-500,500,width=32), st.sampled_from(edges), st.floats(width=32))
box = st.tuples(side,side,side,side,st.sampled_from(vocab),st.booleans(),st.booleans())
photo_boxes = st.lists(box, max_size=12)
three = Record('x', (64,48), [[4,4,20,20],[30,10,34,14],[0,0,60,40]], vocab)
default = fit_default_boxes(Annotations([three]), [(12,16),(6,8),(3,4)]).boxes
photo = Image.new('RGB',(80,60),(90,120,150))
recipes = [lambda: [BoxResize(size)], lambda: ssd_tfms(size)[0], lambda: ssd_tfms(size,paper=True)[0],
           lambda: [BoxRotate(30.,1.),BoxResize(size)], lambda: [detection_autoaugment('v2'),BoxResize(size)]]

def record(objects):
    "A record with these objects: (x0, y0, x1, y1, class, difficult, crowd)"
    x0,y0,x1,y1,labels,difficult,crowd = zip(*objects) if objects else [()]*7
    return Record('x.jpg', photo.size, list(zip(x0,y0,x1,y1)), labels, difficult=difficult, crowd=crowd)

def batch(objects, tfms):
    "What the loaders make of photos with these boxes"
    xs = []
    for objs in objects:
        r = Annotations([record(objs)], vocab)[0]
        item = PILImage(photo),record_boxes(r),BoxCategorize(vocab)(record_labels(r))
        for t in tfms: item = t(item, split_idx=0)
        unit = item[1].as_subclass(Tensor)/torch.tensor([size[1],size[0]]*2)*2-1
        xs.append((item[0], unit, item[2].as_subclass(Tensor)))
    _,bb,ll = zip(*pad_boxes(xs))
    return torch.stack(bb),torch.stack(ll)

def wild_output(n_columns, n, big, dtype):
    "What a network gives that is out of its mind, but finite"
    o = (big*torch.randn(n,len(default),n_columns)).clamp(-6e4,6e4)
    return o.to(dtype).requires_grad_()

dtypes = torch.float32,torch.bfloat16,torch.float16

@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(objects=st.lists(photo_boxes,min_size=1,max_size=3), dtype=st.sampled_from(dtypes),
       kind=st.sampled_from(['multibox','bce','focal']), box_kind=st.sampled_from(['smooth_l1','giou']),
       padded=st.booleans(), big=st.sampled_from([0.,1.,30.,3e4]), tfm=st.integers(0,4), seed=st.integers(0,99))
def test_never_nan(objects, dtype, kind, box_kind, padded, big, tfm, seed):
    random.seed(seed)
    torch.manual_seed(seed)
    bb,ll = batch(objects, recipes[tfm]())
    assert torch.isfinite(bb).all() and (bb.abs()<=1+1e-4).all()
    background,n = kind=='multibox',len(objects)
    scores,offsets = (wild_output(c,n,big,dtype) for c in (3+background,4))
    cls = PaddedSSDLoss if padded and PaddedSSDLoss.fits(kind, box_kind=box_kind) else SSDLoss
    loss = cls(default, kind, box_kind=box_kind)((scores,offsets), bb, ll)
    loss.backward()
    assert torch.isfinite(loss) and loss>=0
    for o in (scores,offsets): assert torch.isfinite(o.grad).all()
    found = detect((scores.detach(),offsets.detach()), default, BoxCoder(), [(80,60)]*n, vocab, background)
    for d in found: assert torch.isfinite(d.boxes).all() and torch.isfinite(d.scores).all()

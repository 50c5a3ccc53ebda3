"No input that `Annotations` accepts, and no precision, makes a loss or a gradient that is no number"
import numpy as np, torch
from hypothesis import given, settings, strategies as st, HealthCheck
from ssd_fastai.all import *
from ssd_fastai.data.block import BoxCategorize, pad_boxes, record_boxes, record_labels

size,vocab = (48,64),['a','b','c']
side = st.one_of(st.floats(-500,500,width=32), st.sampled_from([0.,48.,64.,80.,1e-30,-1e-30,1e30,-1e30,np.inf,-np.inf,np.nan,63.999,1e-4]), st.floats(width=32))
box = st.tuples(side,side,side,side,st.sampled_from(vocab),st.booleans(),st.booleans())
photo_boxes = st.lists(box, max_size=12)
default = fit_default_boxes(Annotations([Record('x',(64,48),[[4,4,20,20],[30,10,34,14],[0,0,60,40]],vocab)]), [(12,16),(6,8),(3,4)]).boxes
photo = Image.new('RGB',(80,60),(90,120,150))

def batch(objects, tfms):
    "What the loaders make of photos with these boxes"
    xs = []
    for objs in objects:
        ann = Annotations([Record('x.jpg',photo.size,[o[:4] for o in objs],[o[4] for o in objs],difficult=[o[5] for o in objs],crowd=[o[6] for o in objs])], vocab)
        item = PILImage(photo),record_boxes(ann[0]),BoxCategorize(vocab)(record_labels(ann[0]))
        for t in tfms: item = t(item, split_idx=0)
        xs.append((item[0], item[1].as_subclass(Tensor)/torch.tensor([size[1],size[0]]*2)*2-1, item[2].as_subclass(Tensor)))
    _,bb,ll = zip(*pad_boxes(xs))
    return torch.stack(bb),torch.stack(ll)

@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(objects=st.lists(photo_boxes,min_size=1,max_size=3), dtype=st.sampled_from([torch.float32,torch.bfloat16,torch.float16]), kind=st.sampled_from(['multibox','bce','focal']), box_kind=st.sampled_from(['smooth_l1','giou']),
       padded=st.booleans(), big=st.sampled_from([0.,1.,30.,3e4]), tfm=st.integers(0,4), seed=st.integers(0,99))
def test_never_nan(objects, dtype, kind, box_kind, padded, big, tfm, seed):
    random.seed(seed); torch.manual_seed(seed)
    tfms = [[BoxResize(size)],ssd_tfms(size)[0],ssd_tfms(size,paper=True)[0],[BoxRotate(30.,1.),BoxResize(size)],[detection_autoaugment('v2'),BoxResize(size)]][tfm]
    bb,ll = batch(objects, tfms)
    assert torch.isfinite(bb).all() and (bb.abs()<=1+1e-4).all()
    C = 3+(kind=='multibox'); n = len(objects)
    s,o = ((big*torch.randn(n,len(default),c)).clamp(-6e4,6e4).to(dtype).requires_grad_() for c in (C,4)) # a network that is out of its mind, but finite
    loss = (PaddedSSDLoss if padded and PaddedSSDLoss.fits(kind,box_kind=box_kind) else SSDLoss)(default, kind, box_kind=box_kind)((s,o),bb,ll)
    loss.backward()
    assert torch.isfinite(loss) and loss>=0
    for g in (s.grad,o.grad): assert torch.isfinite(g).all()
    for d in detect((s.detach(),o.detach()), default, BoxCoder(), [(80,60)]*n, vocab, kind=='multibox'): assert torch.isfinite(d.boxes).all() and torch.isfinite(d.scores).all()

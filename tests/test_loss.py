"Matching and loss against torchvision 0.29, on random and adversarial batches; the deviations on purpose, each by name"
import math, warnings
import pytest, torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection import ssd as tvssd
from torchvision.models.detection._utils import BoxCoder as TVCoder, SSDMatcher
from torchvision.ops import box_iou, generalized_box_iou_loss
from ssd_fastai.data.annotations import Annotations, Record
from ssd_fastai.data.formats import read_voc
from ssd_fastai.data.augment import BoxResize, ssd_tfms, zooms_of
from ssd_fastai.data.block import BBoxDataLoaders, Ignored, record_labels
from ssd_fastai.ssd.anchors import coverage, fit_default_boxes, normalized_boxes, published_boxes
from ssd_fastai.ssd.loss import SSDLoss, class_weights, loss_parts, targets
from ssd_fastai.ssd.loss_gpu import PaddedBoxes, PaddedSSDLoss, match_padded
from ssd_fastai.ssd.match import intersection_over_anchor, match
from ssd_fastai.ssd.model import class_priors, fitted_bias
from ssd_fastai.train.learner import ssd_learner

default = published_boxes('ssd300_coco').boxes

def objects(n, g, kind='random'):
    "n objects: random; tiny and crowded; the same one again and again; sharing best boxes on purpose"
    lo = torch.rand(n,2,generator=g)*.8
    wh = torch.rand(n,2,generator=g)*.4+.02
    if kind=='tiny': lo,wh = .3+lo*.1,wh*.05
    if kind=='duplicates' and n>1: lo[n//2:],wh[n//2:] = lo[:n-n//2].clone(),wh[:n-n//2].clone()
    if kind=='shared':
        d = default[torch.randint(0,len(default),(max(1,n//3),),generator=g)].clamp(.01,.98)
        d = d[torch.arange(n)%len(d)]
        return torch.cat([d[:,:2],torch.maximum(d[:,2:],d[:,:2]+.01)],1)
    return torch.cat([lo,(lo+wh).clamp(max=1)],1)

def tv_loss(scores, offsets, objs, labels, matched):
    m = tvssd.SSD.__new__(tvssd.SSD)
    nn.Module.__init__(m)
    m.box_coder,m.neg_to_pos_ratio = TVCoder((10.,10.,5.,5.)),3
    out = m.compute_loss([dict(boxes=b,labels=l) for b,l in zip(objs,labels)],
                         dict(bbox_regression=offsets,cls_logits=scores), [default]*len(objs), matched)
    return out['bbox_regression']+out['classification']

def tv_match(b): return SSDMatcher(.5)(box_iou(b,default)) if len(b) else torch.full((len(default),),-1)

def pad(objs, labels):
    n = max(1,max(map(len,objs)))
    bb,ll = torch.zeros(len(objs),n,4),torch.zeros(len(objs),n).long()
    for i,(o,l) in enumerate(zip(objs,labels)): bb[i,:len(o)],ll[i,:len(o)] = o*2-1,l
    return bb,ll

@pytest.mark.parametrize('block', range(10))
def test_parity_with_torchvision(block):
    "30 batches each: no objects, one, 200, duplicates, shared best boxes; matches identical, loss and gradients to 1e-5"
    checked = 0
    for seed in range(30*block,30*block+30):
        g = torch.Generator().manual_seed(seed)
        kind = ('random','tiny','duplicates','shared')[seed%4]
        ns = [(0,1,3),(200,5,0),(12,12,1),(1,0,30)][seed%4 if seed%3 else seed//4%4][:2]
        objs = [objects(n,g,kind) for n in ns]
        labels = [torch.randint(1,4,(len(o),),generator=g) for o in objs]
        bb,ll = pad(objs,labels)  # as they come out of a batch, to the last bit
        objs = [((b+1)/2)[:len(o)] for b,o in zip(bb,objs)]
        matched = [tv_match(b) for b in objs]
        for b,m in zip(objs,matched):
            assert torch.equal(match(default,b,like='torchvision').clamp(min=-1), m.clamp(min=-1))
        share = max((m>=0).float().mean() for m in matched)
        if share>=.25: continue # above, torchvision counts positives twice: the test below
        if not any(map(len,objs)): continue
        s,o = (torch.randn(2,len(default),4,generator=g,requires_grad=True) for _ in range(2))
        ours,want = SSDLoss(default,like='torchvision')((s,o),bb,ll),tv_loss(s,o,objs,labels,matched)
        assert torch.allclose(ours,want,rtol=1e-5)
        for a,b in zip(torch.autograd.grad(ours,(s,o)),torch.autograd.grad(want,(s,o))):
            assert torch.allclose(a,b,rtol=1e-5,atol=1e-6)
        checked += 1
    assert checked>=15

def test_deviation_empty_photos_teach():
    "torchvision's loss of photos without objects is exactly 0, ours is not"
    s = torch.randn(1,len(default),4,generator=torch.Generator().manual_seed(0),requires_grad=True)
    o = torch.zeros(1,len(default),4)
    none = [torch.zeros(0,4)],[torch.zeros(0).long()]
    assert tv_loss(s,o,*none,[tv_match(none[0][0])])==0 and SSDLoss(default,like='torchvision')((s,o),*pad(*none))==0
    loss = SSDLoss(default)((s,o),*pad(*none))
    loss.backward()
    assert loss>0 and (s.grad.abs().sum(-1)>0).sum()==32

def test_deviation_nobody_is_forgotten():
    "two objects that share a best box: torchvision's last one wins"
    b = torch.tensor([[.1,.1,.12,.12],[.1,.1,.12,.12]])
    assert set(tv_match(b).tolist())=={-1,1} and {0,1}<=set(match(default,b).tolist())

def test_deviation_positives_are_counted_once():
    "where more than a quarter of the boxes are positive, torchvision counts some of them as negatives too"
    d = torch.tensor([[0.,0,.5,.5],[.02,0,.52,.5],[.5,.5,1,1]])
    b,l = torch.tensor([[0.,0,.5,.5]]),torch.tensor([1])
    s = torch.zeros(1,3,2)
    o = torch.zeros(1,3,4)
    own = SSDMatcher(.5)(box_iou(b,d))
    assert (own>=0).sum()==2
    m = tvssd.SSD.__new__(tvssd.SSD)
    nn.Module.__init__(m)
    m.box_coder,m.neg_to_pos_ratio = TVCoder((10.,10.,5.,5.)),3
    theirs = m.compute_loss([dict(boxes=b,labels=l)],dict(bbox_regression=o,cls_logits=s),[d],[own])['classification']
    loss = SSDLoss(d,min_neg=0)
    loss((s,o),b[None]*2-1,l[None])
    assert math.isclose(theirs,math.log(2)*5/2,rel_tol=1e-5)
    assert math.isclose(loss.parts['cls'],math.log(2)*3/2,rel_tol=1e-5)

def test_ten_thousand_scenes_forget_nobody():
    d = published_boxes('fastai2018').boxes
    g = torch.Generator().manual_seed(0)
    n_objects = 0
    for i in range(10_000):
        n = int(torch.randint(1,25,(1,),generator=g))
        b = objects(n,g,('random','tiny','duplicates','random')[i%4])
        assert torch.bincount(match(d,b)+1,minlength=n+1)[1:].min()>=1
        n_objects += n
    assert n_objects>100_000

def test_assign_is_greedy():
    "the same as handing out boxes in a plain loop, best fit first"
    from ssd_fastai.ssd.match import assign, pairwise_iou
    g = torch.Generator().manual_seed(1)
    for i in range(200):
        n = int(torch.randint(2,12,(1,),generator=g))
        f = torch.rand(n,n+int(torch.randint(0,20,(1,),generator=g)),generator=g)
        if i%2: f[n//2:] = f[:n-n//2]*(1-.001*torch.arange(n-n//2)[:,None])
        want,left = [None]*n,f.clone()
        for _ in range(n):
            k = left.argmax()
            r,c = divmod(k.item(),f.shape[1])
            want[r] = c
            left[r] = -1
            left[:,c] = -1
        assert assign(f).tolist()==want
    assert assign(torch.zeros(3,3)).sort()[0].tolist()==[0,1,2]     # nothing but ties
    b = torch.tensor([[.2,.2,.3,.3]])
    assert torch.allclose(pairwise_iou(b,default).clamp(min=0), box_iou(b,default), atol=1e-6)

def test_ignored_objects_are_neither():
    g = torch.Generator().manual_seed(2)
    crowd = torch.tensor([[.2,.2,.7,.7]])
    b = objects(3,g)
    own = match(default,b,ignore=crowd)
    plain = match(default,b)
    assert torch.equal(own[own!=-2],plain[own!=-2]) and (plain[own==-2]==-1).all()
    assert (intersection_over_anchor(default,crowd)[own==-2]>=.5).all()
    s,o = torch.randn(1,len(default),4,generator=g),torch.zeros(1,len(default),4)
    bb,ll = pad([torch.cat([b,crowd])],[torch.tensor([1,2,3,-2])])
    for kind,c in (('multibox',4),('bce',3),('focal',3)):
        x = s[...,:c].clone().requires_grad_()
        SSDLoss(default,kind)((x,o),bb,ll).backward()
        assert x.grad[0,own==-2].abs().sum()==0 and x.grad[0,own!=-2].abs().sum()>0
    x = s.clone().requires_grad_()
    PaddedSSDLoss(default)((x,o),bb,ll).backward()
    y = s.clone().requires_grad_()
    SSDLoss(default)((y,o),bb,ll).backward()
    assert torch.allclose(x.grad,y.grad,atol=1e-6)

def test_ignored_from_file_to_metric(valid):
    rs = [
        Record(
            r.path,
            r.size,
            r.boxes,
            r.labels,
            crowd=[i == 0 for i in range(len(r.labels))],
            difficult=[i == 1 for i in range(len(r.labels))],
        )
        for r in valid[:8]
    ]
    dls = BBoxDataLoaders.from_annotations(Annotations(rs,valid.vocab), Annotations(rs,valid.vocab), size=64, bs=4,
                                           item_tfms=[BoxResize(64)])
    n = sum(len(r.labels) for r in rs)
    l = torch.cat([l.flatten() for _,_,l in dls.valid]).as_subclass(torch.Tensor)
    assert (l!=0).sum()==n and (l<0).sum()==sum(min(2,len(r.labels)) for r in rs)
    dls = BBoxDataLoaders.from_annotations(Annotations(rs,valid.vocab), Annotations(rs,valid.vocab), size=64, bs=4,
                                           ignore=('crowd',))
    assert isinstance(record_labels(rs[0])[1],Ignored) and not isinstance(record_labels(rs[0],('crowd',))[1],Ignored)

@pytest.mark.parametrize('seed', range(12))
def test_padded_equals_by_photo(seed):
    "loss and gradients of the path without questions, where no chain of collisions differs"
    g = torch.Generator().manual_seed(seed)
    objs = [objects(int(torch.randint(0,15,(1,),generator=g)),g) for _ in range(4)]
    labels = [torch.randint(1,4,(len(o),),generator=g) for o in objs]
    bb,ll = pad(objs,labels)
    s,o = (torch.randn(4,len(default),4,generator=g,requires_grad=True) for _ in range(2))
    w = [None,torch.tensor([.5,2.,1.])][seed%2]
    a,b = (loss(default,class_weight=w,min_neg=(0,32)[seed%3>0])((s,o),bb,ll) for loss in (SSDLoss,PaddedSSDLoss))
    assert torch.allclose(a,b,rtol=1e-4)
    for x,y in zip(torch.autograd.grad(a,(s,o)),torch.autograd.grad(b,(s,o))): assert torch.allclose(x,y,atol=1e-5)

@pytest.mark.parametrize('kind,most', [('random',.001),('duplicates',.005),('shared',.05),('tiny',.12)])
def test_padded_forgets_hardly_anybody(kind, most):
    "the price of asking nothing: in crowds made for the purpose a few objects go without; by photo it is none"
    const,g = PaddedBoxes(default),torch.Generator().manual_seed(3)
    n = without = 0
    for i in range(25):
        objs = [objects(int(torch.randint(0,40,(1,),generator=g)),g,kind) for _ in range(4)]
        bb,ll = pad(objs,[torch.ones(len(o)).long() for o in objs])
        for o,b in zip(match_padded(const,(bb+1)/2,ll),objs):
            n += len(b)
            without += len(set(range(len(b)))-set(o.tolist()))
    assert n>1000 and without<=n*most, (kind,without,n)

class Count(TorchDispatchMode):
    "Operations that do work (not those that only look at memory in another shape), and questions to the device"
    looks = (
        'view',
        'expand',
        'slice',
        'unsqueeze',
        'select',
        'split',
        'squeeze',
        'alias',
        'detach',
        'permute',
        'as_strided',
        'lift_fresh',
    )
    def __init__(self):
        super().__init__()
        self.ops,self.asks = [],[]
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        name = str(f)
        asks = any(o in name for o in ('_local_scalar_dense','nonzero','aten.equal','item'))
        (self.asks if asks else [] if any(o in name for o in self.looks) else self.ops).append(name)
        return f(*args,**(kwargs or {}))

def test_padded_loss_is_few_operations_and_asks_nothing():
    g,counts = torch.Generator().manual_seed(4),[]
    for B,n in ((1,3),(8,30),(32,30)):
        objs = [objects(n,g) for _ in range(B)]
        bb,ll = pad(objs,[torch.ones(n).long()]*B)
        s,o = torch.randn(B,len(default),4),torch.randn(B,len(default),4)
        loss = PaddedSSDLoss(default,ignore=False)
        with torch.no_grad(), Count() as c: loss((s,o),bb,ll)
        assert not c.asks
        counts.append(len(c.ops))
    assert len(set(counts))==1 and counts[0]<=75, counts
    with Count() as c: torch.ones(1).item()
    assert c.asks # the counter does see questions
    # and on the meta device, which has no numbers, every question is an error
    meta = [t.to('meta') for t in (s,o,bb,ll)]
    assert PaddedSSDLoss(default).to('meta')((meta[0],meta[1]),*meta[2:]).device.type=='meta'
    with pytest.raises(Exception): SSDLoss(default).to('meta')((meta[0],meta[1]),*meta[2:])

def test_ignored_objects_are_not_counted():
    r = Record('a.png', (64,64), [[0,0,30,30],[33,33,64,64]], ['a','b'], crowd=[False,True])
    vocab = ['a','b']
    db = fit_default_boxes([Record('a.png',(64,64),[[0,0,30,30],[33,33,60,60]],['a','a'])], [(4,4)], k=2).boxes
    own = match(db, normalized_boxes(r)[:1], ignore=normalized_boxes(r)[1:])
    p = class_priors(db, [r], vocab)
    assert p.tolist()==[(own==0).float().mean().item(),0]
    assert class_weights([r],vocab,'balanced')[1]==0
    assert (class_priors(db,[Record('b.png',(64,64),[[0,0,30,30]],['a'],difficult=[True])],vocab)==0).all()

def test_class_weights(train):
    w = class_weights(train,train.vocab,'balanced')
    n = torch.tensor([sum(l==v for r in train for l in r.labels) for v in train.vocab]).float()
    assert torch.allclose(w*n,(w*n)[0].expand(3),rtol=1e-4) and math.isclose((w*n).sum(),n.sum(),rel_tol=1e-5)
    assert class_weights(train,train.vocab) is None
    assert class_weights(train,train.vocab,{'WBC':3}).tolist()==[1,3,1]
    for bad in ({'wbc':2},'heavy'):
        with pytest.raises(ValueError, match='wbc|heavy'): class_weights(train,train.vocab,bad)
    s,o = torch.randn(1,len(default),4),torch.zeros(1,len(default),4)
    bb,ll = pad([torch.tensor([[.1,.1,.5,.5]])],[torch.tensor([2])])
    plain, heavy = (
        SSDLoss(default, min_neg=0, neg_ratio=0),
        SSDLoss(default, min_neg=0, neg_ratio=0, class_weight=torch.tensor([1.0, 4.0, 1.0])),
    )
    assert torch.allclose(heavy((s,o),bb,ll),4*plain((s,o),bb,ll))

def test_giou_is_torchvisions():
    g = torch.Generator().manual_seed(5)
    objs = [objects(4,g)]
    bb,ll = pad(objs,[torch.ones(4).long()])
    o = torch.randn(1,len(default),4,generator=g)
    loss = SSDLoss(default,box_kind='giou')
    loss((torch.zeros(1,len(default),4),o),bb,ll)
    cls,box = targets(default,(bb+1)/2,ll)
    pos = cls>0
    assert torch.allclose(
        loss.parts['box'],
        generalized_box_iou_loss(loss.coder.decode(o, default)[pos], box[pos], reduction='sum') / pos.sum(),
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match='box_kind'): SSDLoss(default,box_kind='l7')

def test_priors_and_bias(train):
    db = published_boxes('ssdlite320')
    p = class_priors(db.boxes,train,train.vocab,10**6)
    n = torch.zeros(3)
    for r in train:
        b = torch.from_numpy(r.boxes)/torch.tensor([*r.size]*2)
        for i in match(db.boxes,b).tolist(): 
            if i>=0: n[train.vocab.index(r.labels[i])] += 1
    assert torch.allclose(p,n/len(train)/len(db)) and torch.allclose(fitted_bias(p,False).sigmoid(),p)
    assert torch.allclose(torch.cat([torch.zeros(1),fitted_bias(p)]).softmax(0)[1:],p)
    assert torch.isfinite(fitted_bias(torch.zeros(3))).all()
    assert (class_priors(db.boxes,train,train.vocab,40)-p).abs().max()<.5*p.max()

def test_learner_uses_choices(train, valid):
    dls = BBoxDataLoaders.from_annotations(train[:24], valid[:8], size=(128,128), bs=8)
    l = ssd_learner(
        dls,
        'resnet10t',
        pretrained=False,
        width=32,
        boxes='ssd300_voc',
        class_weight={'Platelets': 2},
        loss_kw=dict(min_neg=5),
        metrics=loss_parts(),
    )
    assert l.model.grids==[(16,16),(8,8),(4,4),(2,2),(1,1),(1,1)]
    assert torch.allclose(l.default_boxes.shapes[1][0],torch.tensor([.2,.2]))
    assert l.loss_func.min_neg==5 and l.loss_func.weight.tolist()==[1,1,1,2] and l.loss_func.ignore is False
    with l.no_bar(), l.no_logging(): l.fit(1)
    loss,c,b = l.validate()
    assert abs(loss-c-b)<1e-3*loss
    bias = fitted_bias(class_priors(l.default_boxes.boxes,train[:24],train.vocab))
    fresh = ssd_learner(dls,'resnet10t',pretrained=False,width=32,boxes='ssd300_voc')
    assert torch.allclose(fresh.model.head.classes[0].bias.view(-1,4)[0,1:].detach(),bias,atol=1e-5)
    with pytest.raises(ValueError, match='choose one of'): ssd_learner(dls,'resnet10t',pretrained=False,boxes='ssd_300')

def test_zooms():
    a,b,c = zooms_of(ssd_tfms(64)[0])
    assert a<b<c and .5<a<1 and 1<c<2.5 and zooms_of([BoxResize(64)])==(1.,)

def test_bccd_platelets_are_covered(bccd):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        train = read_voc(bccd/'JPEGImages',bccd/'Annotations',bccd/'ImageSets/Main/trainval.txt')
    grids = [(224//s,224//s) for s in (4,8,16,32)]
    assert coverage(fit_default_boxes(train,grids,zooms=zooms_of(ssd_tfms(224)[0])),train)['covered %']['Platelets']>=99
    assert coverage(published_boxes('ssdlite320'),train)['covered %']['Platelets']<1

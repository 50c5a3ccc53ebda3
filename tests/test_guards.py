"Poisoned data, groups, and the look at the first batch"
import numpy as np, pytest, torch
from functools import partial
from ssd_fastai.all import *
from ssd_fastai.train.audit import starting_loss
from ssd_fastai.train.guards import batch_records

def small(train, valid, n=16, workers=0, bs=4, **kw):
    dls = BBoxDataLoaders.from_annotations(train[:n], valid[:8], size=64, bs=bs, num_workers=workers)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = ssd_learner(dls, 'resnet10t', pretrained=False, **kw)
    l.remove_cb(ProgressCallback)
    return l

@pytest.mark.parametrize('workers', [0,2])
@pytest.mark.parametrize('bs', [4,5])
def test_names_of_a_batch(train, valid, workers, bs):
    dls = BBoxDataLoaders.from_annotations(train[:23], valid[:7], size=64, bs=bs, num_workers=workers, item_tfms=[],
                                           batch_tfms=[])
    for dl in dls.loaders:
        seen = []
        for i,(xb,bb,lb) in enumerate(dl):
            rs = batch_records(dl,i)
            seen += [r.path for r in rs]
            assert len(rs)==len(xb) and [[dls.vocab[o-1] for o in l[l>0]] for l in lb]==[r.labels for r in rs]
        assert len(seen)==len(set(seen))

@pytest.mark.parametrize('workers', [0,2])
def test_poisoned_photo_is_named(cells, train, valid, tmp_path, workers):
    "A photo whose pixels become NaN when it is read, in a shuffled training"
    bad = train[9].path
    l = small(train, valid, workers=workers)
    dl = l.dls.train
    real = dl.do_item
    def read(i):
        x,*y = real(i)
        return (x.float()*(float('nan') if dl.dataset.items[i].path==bad else 1), *y)
    dl.do_item = read
    with pytest.raises(FloatingPointError,
                       match=f'NaN or infinite values in the photo: {bad.name}\\.'), l.no_logging():
        l.fit(1, 1e-3)

def test_poisoned_box_and_part(train, valid):
    l = small(train, valid)
    class Box(Callback):
        order = -9
        def before_batch(self):
            if self.learn.iter==2:
                self.learn.yb[0][1,0] = float('nan')
                self.bad = batch_records(self.learn.dl,2)[1].path.name
    cb = Box()
    with pytest.raises(FloatingPointError) as e, l.no_logging(): l.fit(1, 1e-4, cbs=cb)
    assert f'NaN or infinite values in a box: {cb.bad}.' in str(e.value) and 'batch 2' in str(e.value)
    class Part(Callback):
        order = -9
        def after_pred(self): self.learn.pred = (self.learn.pred[0], self.learn.pred[1]+float('inf'))
    l = small(train, valid)
    with pytest.raises(FloatingPointError) as e, l.no_logging(): l.fit(1, 1e-4, cbs=Part())
    assert 'NaN or infinite: box.' in str(e.value) and all(r.path.name in str(e.value) for r in batch_records(l.dls.train,0))

def test_nan_in_validation_and_lr_find(train, valid):
    l = small(train, valid)
    class V(Callback):
        order = -9
        def before_batch(self):
            if not self.training: self.learn.xb[0][2] = float('nan')
    with pytest.raises(FloatingPointError, match=f'validation.*{valid[2].path.name}'), l.no_logging():
        l.fit(1, 1e-4, cbs=V())
    l = small(train, valid)
    l.lr_find(start_lr=1e3, end_lr=1e20, num_it=8, show_plot=False, suggest_funcs=None)

def test_clipping_default(train, valid):
    l = small(train, valid)
    clips = [c for c in l.cbs if isinstance(c,GradientClip)]
    assert len(clips)==1 and clips[0].max_norm==30 and sum(isinstance(c,NaNGuard) for c in l.cbs)==1
    assert [c.max_norm for c in small(train,valid,cbs=GradientClip(2.)).cbs if isinstance(c,GradientClip)]==[2.]

def test_first_batch(train, valid):
    for kind in ('multibox','bce','focal'):
        l = small(train, valid, kind=kind)
        before = [o.clone() for o in l.model.state_dict().values()]
        t = l.check_first_batch()
        assert t.ok.all() and len(t)==5, t
        assert all(torch.equal(a,b) for a,b in zip(l.model.state_dict().values(),before))
    def broken(f):
        l = small(train, valid)
        l.dls.train.after_batch.add(f)
        l.dls.train.after_batch.fs.sort(key=lambda o:getattr(o,'order',0))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return l.check_first_batch().set_index('check').ok
    class Out(Transform):
        order = 200
        def encodes(self, o:TensorBBox): return o+.9*(o.abs().sum(-1,keepdim=True)>0)
    class Dark(Transform):
        order = 200
        def encodes(self, o:TensorImage): return o*float('nan')
    assert not broken(Out())['boxes inside the photo'] and not broken(Dark())['photos are numbers']
    assert not broken(Dark())['loss near its expected start']

def test_first_batch_with_crowds_and_difficult(train, valid):
    "Labels below 0 are ignored, and are in range; one beyond the classes is not"
    class Label(Transform):
        order = 200
        def __init__(self, to):
            super().__init__()
            self.to = to
        def encodes(self, o:TensorMultiCategory):
            o = o.clone()
            o[:,0] = self.to
            return o
    for to,ok in ((-1,True),(-3,True),(4,False),(-4,False)):
        l = small(train, valid)
        l.dls.train.after_batch.add(Label(to))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert bool(l.check_first_batch().set_index('check').ok['labels in range'])==ok, to

@pytest.mark.parametrize('arch', [ssdlite320_mobilenet_v3_large,ssdlite320_mobilenet_v2])
def test_first_batch_of_published_models(train, valid, arch):
    "Their predictors are several layers, and each feature map has its own bias"
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], size=320, bs=4)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = ssd_learner(dls, arch, pretrained=False)
    assert l.check_first_batch().ok.all() and l.default_boxes.boxes.shape==l.model.boxes.shape
    yb = l.dls.train.one_batch()[1:]
    for c in l.model.head.classes: nn.init.zeros_(c[-1].weight)
    for c in l.model.head.offsets: nn.init.zeros_(c[-1].weight)
    said = l.loss_func(l.model.eval()(torch.zeros(4,3,320,320)), *yb).item()
    assert abs(starting_loss(l,yb)-said)<1e-4*said

def test_overfit_one_batch(train, valid):
    l = small(train, valid)
    before = [p.clone() for p in l.model.parameters()]
    state = torch.get_rng_state()
    losses = l.one_batch_overfit(25, 3e-3)
    plt.close('all')
    assert losses[-1]<.6*losses[0] and all(torch.equal(a,b) for a,b in zip(l.model.parameters(),before))
    assert torch.equal(state,torch.get_rng_state())

def test_groups_freeze_and_effective_rates(train, valid):
    "What the optimizer is told and what the weights do, for freeze_to, slices and fine_tune"
    class Effective(Callback):
        run_valid,order = False,20
        def before_fit(self): self.moved = {}
        def before_step(self):
            ps = [p for p in self.learn.model.parameters() if p.grad is not None]
            self.was = {p:(p.detach().clone(),p.grad.clone()) for p in ps}
        def after_step(self):
            for p in self.learn.model.parameters():
                w,g = self.was.get(p,(p,torch.zeros_like(p)))
                if g.norm()>1e-2*w.norm(): self.moved[p] = ((w-p.detach()).norm()/g.norm()).item()
    l = small(train, valid, opt_func=partial(SGD,mom=0.), wd=0.)
    bn = {p for m in l.model.body.modules() if isinstance(m,nn.BatchNorm2d) for p in m.parameters()}
    t = l.groups()
    assert list(t.index)==['body','head'] and t.parameters.sum()==sum(p.numel() for p in l.model.parameters())
    def rates(lr):
        e = Effective()
        with l.no_logging(): l.fit(1, lr, cbs=e)
        body,head = ([e.moved[p] for p in ps if p in e.moved] for ps in l.opt.param_lists)
        return body,head,e.moved
    for lr,want in ((slice(1e-4,1e-2),(1e-4,1e-2)),(slice(1e-2),(1e-3,1e-2)),(1e-3,(1e-3,1e-3))):
        body,head,_ = rates(lr)
        assert len(body)>10 and len(head)>3 and np.allclose(body,want[0],rtol=.03)
        assert np.allclose(head,want[1],rtol=.03)
        assert l.groups().lr.tolist()==pytest.approx(list(want))
    w = {p:p.detach().clone() for p in l.model.parameters()}
    l.freeze()
    rates(1e-2)
    assert all(torch.equal(p,w[p]) for p in l.model.body.parameters() if p not in bn)
    assert any(not torch.equal(p,w[p]) for p in l.model.head.parameters())
    l.freeze_to(0)
    assert (l.groups().training==l.groups().parameters).all()
    r = GroupRates()
    with l.no_logging(): l.fine_tune(2, 1e-2, freeze_epochs=1, lr_mult=10, cbs=r)
    a = np.array(r.rates)
    assert a.shape==(12,2) and np.allclose(a[4:,1]/a[4:,0],10) and a[4:,1].max()==pytest.approx(5e-3,rel=.1)

def test_frozen_statistics(train, valid):
    l = small(train, valid)
    bns = [m for m in l.model.body.modules() if isinstance(m,nn.BatchNorm2d)]
    heads = [m for m in l.model.head.modules() if isinstance(m,nn.BatchNorm2d)]
    def moved(ms, **kw):
        was = [m.running_mean.clone() for m in ms]
        with l.no_logging(): l.fit(1, 0., **kw)
        return [not torch.equal(m.running_mean,w) for m,w in zip(ms,was)]
    l.freeze()
    assert all(moved(bns)) and not any(moved(bns, cbs=FreezeStats())) and all(moved(heads, cbs=FreezeStats()))
    l.unfreeze()
    assert all(moved(bns, cbs=FreezeStats()))

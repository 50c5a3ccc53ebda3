"The whole path: learn four photos by heart, predict, export, evaluate"
import json, subprocess, sys, urllib.error
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou
from ssd_fastai.all import *
from ssd_fastai.train.precision import CPUBf16, time_precisions
from ssd_fastai.data.folders import read_folder
from ssd_fastai.use.cli import ssd_predict

@pytest.fixture(scope='module')
def learn(cells, tmp_path_factory):
    "Four photos learned by heart"
    set_seed(0, reproducible=True)
    ann = read_coco(cells/'train.json', cells/'images')
    four = Annotations([r for r in ann if {'RBC','WBC','Platelets'}<=set(r.labels)][:4], ann.vocab)
    size = (120,160)
    dls = BBoxDataLoaders.from_annotations(Annotations(four.records*8,ann.vocab), four, size=size, bs=4,
                                           item_tfms=[BoxResize(size)], batch_tfms=[],
                                           path=tmp_path_factory.mktemp('learn'))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = ssd_learner(dls, 'resnet10t', pretrained=False, strides=(4,8,16), metrics=coco_metrics())
    with learn.no_bar(),learn.no_logging(): learn.fine_tune(20, 2e-3)
    learn.remove_cb(ProgressCallback)
    return learn

def test_overfit(learn): assert learn.validate()[2]>.95
def test_every_class_is_learned(learn): assert (learn.ap_per_class()['AP50']>.9).all()

def test_metric_equals_pycocotools_by_hand(learn):
    "The oracle: results written to files, read and scored by pycocotools as in its demo"
    rs = learn.dls.records[1]
    names = learn.dls.vocab
    gt = COCO()
    k = 0
    gt.dataset = dict(info={}, images=[dict(id=i+1) for i in range(len(rs))],
                      categories=[dict(id=i+1,name=n) for i,n in enumerate(names)], annotations=[])
    for i,r in enumerate(rs):
        for (x0,y0,x1,y1),l in zip(r.boxes.tolist(),r.labels):
            k += 1
            gt.dataset['annotations'].append(
                dict(
                    id=k,
                    image_id=i + 1,
                    category_id=names.index(l) + 1,
                    bbox=[x0, y0, x1 - x0, y1 - y0],
                    area=(x1 - x0) * (y1 - y0),
                    iscrowd=0,
                )
            )
    gt.createIndex()
    res = [row for i,r in enumerate(rs) for row in learn.predict(r.path,min_score=.01,keep=100).to_coco(i+1)]
    ev = COCOeval(gt, gt.loadRes(res), 'bbox')
    ev.evaluate()
    ev.accumulate()
    ev.summarize()
    _,ap,ap50 = learn.validate()
    assert abs(ap-ev.stats[0])<.01 and abs(ap50-ev.stats[1])<.01

def test_predict_takes_anything_and_scales(learn, tmp_path):
    r = learn.dls.records[1][0]
    photo = open_photo(r.path)
    det = learn.predict(r.path)
    assert len(det)>=len(r.labels)-1 and (det.boxes>=0).all() and (det.boxes[:,2]<=320).all()
    assert box_iou(torch.from_numpy(r.boxes),det.boxes).amax(1).mean()>.8
    for o in (str(r.path),photo,np.array(photo),np.array(photo)/255.,torch.from_numpy(np.array(photo)).permute(2,0,1)):
        assert torch.allclose(learn.predict(o).boxes,det.boxes,atol=1e-2)
    big = learn.predict(photo.resize((640,480),Image.Resampling.NEAREST), min_score=.5)
    small = learn.predict(photo, min_score=.5)
    # the same pixels reach the model, so boxes are twice as large
    assert len(big)==len(small)
    assert torch.allclose(big.boxes, small.boxes*2, atol=3)
    assert len(learn.predict(photo.convert('L')).vocab)==3 and learn.predict(photo.convert('RGBA')).boxes.shape[1]==4
    with pytest.raises(FileNotFoundError, match='no photo'): learn.predict('nowhere.jpg')

def test_twice_as_large_exactly(learn):
    "A photo that already has the model's size, and the same at twice the size, are the same to the model"
    photo = open_photo(learn.dls.records[1][0].path).resize((160,120))
    one = learn.predict(photo)
    h,w = learn.dls.size
    x = TensorImage(torch.from_numpy(np.array(photo)).permute(2,0,1)[None])
    x = compose_tfms((x,), learn.dls.valid.after_batch.fs, split_idx=1)[0]
    two = learn.model.detections(learn.model(x), [(2*w,2*h)], learn.dls.vocab, min_score=.3)[0]
    assert torch.allclose(two.boxes, one.boxes*2, atol=1e-3)

def test_a_batch_of_anything(learn):
    paths = [r.path for r in learn.dls.records[1][:3]]
    a,b = learn.predict_batch(paths),learn.predict_batch([paths[0], open_photo(paths[1]), np.array(open_photo(paths[2]))])
    for p,x,y in zip(paths,a,b):
        assert torch.allclose(x.boxes,y.boxes) and torch.allclose(x.boxes, learn.predict(p).boxes, atol=1e-2)

def test_no_nms_is_a_superset(learn):
    p = learn.dls.records[1][0].path
    raw,det = learn.predict(p,nms=None),learn.predict(p,vote=None)
    assert len(raw)>len(det) and (raw.scores[:-1]>=raw.scores[1:]).all()
    assert len(learn.predict(p,nms=None,keep=3))==3
    for b in det.boxes: assert (raw.boxes-b).abs().sum(1).min()<1e-3

def test_export_in_another_process_and_folder(learn, tmp_path):
    learn.export((tmp_path/'cells.pkl').absolute())
    p = learn.dls.records[1][0].path
    code = f"""
import warnings; warnings.simplefilter('ignore')
import json
from fastai.learner import load_learner
det = load_learner({str(tmp_path/'cells.pkl')!r}).predict({str(p)!r})
print(json.dumps([det.boxes.tolist(), det.names]))"""
    (tmp_path/'elsewhere').mkdir()
    out = subprocess.run([sys.executable,'-W','ignore','-c',code], cwd=tmp_path/'elsewhere', capture_output=True,
                         text=True, check=True).stdout
    b,names = json.loads(out.strip().splitlines()[-1])
    det = learn.predict(p)
    assert names==det.names and torch.allclose(torch.tensor(b),det.boxes,atol=.01)

def test_export_is_small_and_carries_no_data(learn, tmp_path):
    learn.validate()
    learn.export((tmp_path/'a.pkl').absolute())
    params = sum(p.numel() for p in learn.model.parameters())*4
    assert (tmp_path/'a.pkl').stat().st_size<params*1.05+2e6

def test_any_one_metric_collects(learn):
    was = learn.metrics
    want = learn.validate()[2]
    try:
        learn.metrics = coco_metrics()[1:]
        assert abs(learn.validate()[1]-want)<1e-6
        learn.metrics = coco_metrics(['AP75','AP small','AR 100'])
        assert len(learn.validate())==4
    finally: learn.metrics = was

def test_same_photo_same_answer_however_it_comes(learn, tmp_path):
    photo = open_photo(learn.dls.records[1][0].path)
    a = np.dstack([np.array(photo),np.where(np.arange(320)<160,255,0)[None].repeat(240,0)]).astype(np.uint8)
    f = tmp_path/'t.png'
    Image.fromarray(a).save(f)
    want = learn.predict(f)
    for o in (Image.open(f),a,torch.from_numpy(a).permute(2,0,1)):
        assert torch.allclose(learn.predict(o).boxes,want.boxes,atol=1e-3)
    g = (np.array(photo.convert('L')).astype(np.uint16)*257)
    f = tmp_path/'g.png'
    Image.fromarray(g).save(f)
    want = learn.predict(f)
    for o in (Image.open(f),g): assert torch.allclose(learn.predict(o).boxes,want.boxes,atol=.5)

def test_loss_and_model_must_agree(train, valid):
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], size=64, bs=4)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = ssd_learner(dls, 'resnet10t', pretrained=False)
        with pytest.raises(ValueError, match='background column'):
            ssd_learner(dls, 'resnet10t', pretrained=False, loss_func=SSDLoss(l.model.boxes,'focal'))
        with pytest.raises(ValueError, match='background column'):
            ssd_learner_2018(dls, resnet18, pretrained=False, kind='multibox')
        for kind in ('bce','focal'):
            assert ssd_learner(dls, 'resnet10t', pretrained=False, kind=kind).model.background is False

def test_more_objects_than_boxes(valid):
    r = valid[0]
    rng = np.random.default_rng(0)
    lo = rng.uniform(0,200,(200,2))
    many = Annotations([Record(r.path,r.size,np.concatenate([lo,lo+9],1),['RBC']*200)]*4, valid.vocab)
    with pytest.raises(ValueError, match=f'{r.path.name} has 200 objects'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ssd_learner_2018(BBoxDataLoaders.from_annotations(many, valid[:4], bs=4), resnet18, pretrained=False)

def test_pictures(learn):
    learn.dls.show_batch(4)
    learn.dls.show_batch(3, unique=True, names=True)
    learn.show_results(2)
    learn.predict(learn.dls.records[1][0].path).show(min_score=.5)
    plt.close('all')

def test_groups_freeze_and_slices(learn):
    body,head = ssd_split(learn.model)
    assert len(body)+len(head)==len(list(learn.model.parameters()))
    learn.freeze()
    bn = {id(p) for m in learn.model.modules() if isinstance(m,nn.BatchNorm2d) for p in m.parameters()}
    assert all(p.requires_grad==(id(p) in bn) for p in body) and all(p.requires_grad for p in head)
    learn.unfreeze()
    assert all(p.requires_grad for p in body)
    learn.create_opt()
    learn.opt.set_hypers(lr=[1e-5,1e-3])
    assert [h['lr'] for h in learn.opt.hypers]==[1e-5,1e-3]
    assert sum(len(p) for p in learn.opt.param_lists)==len(body)+len(head)

def test_fine_tune_by_situation(learn, capsys):
    seen = []
    def fit(self, n, lr, **kw): seen.append((n,lr,any(p.requires_grad for p in self.model.body.parameters() if p.ndim==4)))
    learn.fit_one_cycle,was = fit.__get__(learn),learn.pretrained
    try:
        learn.pretrained = False
        learn.fine_tune(3)
        learn.fine_tune(3, 5e-3)
        learn.pretrained = True
        learn.fine_tune(3)
        learn.fine_tune(3, freeze_epochs=1, lr_mult=10)
        out = capsys.readouterr().out
    finally:
        del learn.fit_one_cycle
        learn.pretrained = was
        learn.unfreeze()
    assert seen[:3]==[(3,4e-3,True),(3,5e-3,True),(3,4e-3,True)]
    assert seen[3][0]==1 and not seen[3][2] and seen[4][0]==3 and seen[4][2] and seen[4][1].start<seen[4][1].stop
    lines = out.splitlines()
    assert 'from scratch' in lines[0] and 'frozen' not in lines[2] and '1 epoch(s) with the body frozen' in lines[3]
    n = 3*len(learn.dls.train)
    assert all(f'({n} steps, which is few: {-(-200//len(learn.dls.train))} epochs would make 200)' in o for o in lines)

def test_pretrained_offline_and_from_a_local_file(tmp_path, monkeypatch, train, valid):
    "Weights that we save under the name that torchvision looks for are used; without them the error says what to do"
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr('torch.hub.download_url_to_file',
                        lambda *a,**k: (_ for _ in ()).throw(urllib.error.URLError('offline')))
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], size=64, bs=4)
    with pytest.raises(ConnectionError, match='pretrained=False.*checkpoints'): ssd_learner(dls, resnet18)
    from torchvision.models import ResNet18_Weights
    torch.manual_seed(9)
    made = resnet18(weights=None).state_dict()
    f = tmp_path/'hub/checkpoints'/Path(ResNet18_Weights.DEFAULT.url).name
    f.parent.mkdir(parents=True,exist_ok=True)
    torch.save(made, f)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = ssd_learner(dls, resnet18)
    conv1 = next(m for m in l.model.body.modules() if isinstance(m,nn.Conv2d)).weight
    assert torch.equal(conv1.detach(), made['conv1.weight']) and l.pretrained and not conv1.requires_grad

def test_size_that_does_not_fit(train, valid):
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], size=(100,128), bs=4)
    with pytest.warns(UserWarning, match=r'size=\(96, 128\) fits'):
        ssd_learner(dls, resnet18, pretrained=False, strides=(8,16,32))
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], size=8, bs=4)
    with pytest.raises(ValueError, match='smaller than one cell'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ssd_learner(dls, resnet18, pretrained=False)

def test_same_seed_same_learner(train, valid):
    def run():
        set_seed(3, reproducible=True)
        dls = BBoxDataLoaders.from_annotations(train[:16], valid[:8], size=64, bs=4)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            l = ssd_learner(dls, 'resnet10t', pretrained=False, metrics=coco_metrics())
        with l.no_bar(),l.no_logging(): l.fine_tune(1)
        return torch.cat([p.flatten() for p in l.model.parameters()])
    assert torch.allclose(run(), run(), atol=1e-6)

def test_bf16_on_cpu_learns_the_same_shapes(train, valid):
    dls = BBoxDataLoaders.from_annotations(train[:4], valid[:4], size=64, bs=4)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = ssd_learner(dls, 'resnet10t', pretrained=False, precision='bf16', metrics=coco_metrics())
    with l.no_bar(),l.no_logging(): l.fit(1, 1e-3)
    assert np.isfinite(l.recorder.losses[-1]) and not torch.is_autocast_enabled('cpu')
    assert next(l.model.parameters()).dtype==torch.float32

@pytest.mark.parametrize('error', [RuntimeError,KeyboardInterrupt])
def test_bf16_is_gone_after_an_error(train, valid, error):
    class Fails(Callback):
        def after_loss(self): raise error('dark')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = ssd_learner(BBoxDataLoaders.from_annotations(train[:4],valid[:4],size=64,bs=4), 'resnet10t',
                        pretrained=False, precision='bf16')
    seen = []
    h = l.model.head.classes[0].register_forward_hook(lambda m,i,o: seen.append(o.dtype))
    with pytest.raises(error), l.no_bar(),l.no_logging(): l.fit(1, 1e-3, cbs=Fails())
    l.model.train()(torch.zeros(2,3,64,64))
    h.remove()
    assert seen==[torch.bfloat16,torch.float32] and 'forward' not in vars(l.model)

def test_predict_folder_keeps_all_pictures(valid, tmp_path, capsys):
    import shutil
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = ssd_learner(BBoxDataLoaders.from_annotations(valid[:4],valid[:4],size=64,bs=4,path=tmp_path), 'resnet10t',
                        pretrained=False)
    l.export('d.pkl')
    photos = tmp_path/'photos'
    ext = valid[0].path.suffix
    for i,n in enumerate((f'a/1{ext}',f'b/1{ext}','c.png','c.bmp')):
        (photos/n).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(valid[i].path, photos/n) if n.endswith(ext) else Image.open(valid[i].path).save(photos/n)
    # the second time beside its own pictures
    for _ in range(2): ssd_predict(tmp_path/'d.pkl', photos, photos/'found', min_score=0.)
    before = (photos/'c.png').read_bytes()
    capsys.readouterr()
    # a photo that is in `out` is found, and not painted over
    ssd_predict(tmp_path/'d.pkl', photos/'c.png', photos, min_score=0.)
    assert (photos/'c.png').read_bytes()==before and (photos/'c.png.png').exists()
    assert 'c.png: ' in capsys.readouterr().out
    (photos/'c.png.png').unlink()
    (photos/'detections.json').unlink()
    made = sorted(f.relative_to(photos/'found').as_posix() for f in (photos/'found').rglob('*.png'))
    assert made==['a/1.png','b/1.png','c.bmp.png','c.png.png'] or ext=='.png' and len(made)==4, made
    rows = json.loads((photos/'found/detections.json').read_text())
    assert {r['file_name'] for r in rows}=={f'a/1{ext}',f'b/1{ext}','c.png','c.bmp'}

def test_user_folder_voc_from_the_command_line(bccd, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        a,b = read_folder(bccd)
    assert (len(a),len(b))==(292,72) and set(a.vocab)=={'RBC','WBC','Platelets'}

@pytest.mark.parametrize(
    'files,want',
    [
        (('train', 'val', 'trainval'), (6, 4)),
        (('train', 'val', 'trainval', 'test'), (10, 2)),
        (('trainval',), (8, 2)),
        ((), (10, 2)),
    ],
)
def test_voc_folders_never_leak(valid, tmp_path, files, want):
    a = valid[:12]
    a.to_voc(tmp_path/'Annotations')
    (tmp_path/'JPEGImages').symlink_to(valid.folder())
    s = tmp_path/'ImageSets/Main'
    s.mkdir(parents=True)
    stems = [r.path.stem for r in a]
    parts = dict(train=stems[:6],val=stems[6:10],trainval=stems[:10],test=stems[10:])
    for f in files: (s/f'{f}.txt').write_text('\n'.join(parts[f]))
    t,v = read_folder(tmp_path)
    assert (len(t),len(v))==want and not {r.path for r in t}&{r.path for r in v}

@pytest.mark.parametrize('faster', ['fp32','bf16'])
def test_auto_precision_asks_the_clock(train, valid, monkeypatch, capsys, faster):
    "Where the CPU has bf16, timed steps decide, and the choice is said; random_state and model are as before"
    import ssd_fastai.train.precision as p
    monkeypatch.setattr(torch.backends.cudnn,'deterministic',False)
    monkeypatch.setattr(p,'cpu_has_bf16',lambda: True)
    asked = []
    monkeypatch.setattr(
        p,
        'time_precisions',
        lambda model, size: asked.append(size) or {'fp32': 1.0, 'bf16': 0.5 if faster == 'bf16' else 2.0},
    )
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], size=64, bs=4)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = ssd_learner(dls, 'resnet10t', pretrained=False)
    assert asked==[(64,64)] and any(isinstance(c,CPUBf16) for c in learn.cbs)==(faster=='bf16')
    assert f'precision: {faster}' in capsys.readouterr().out

def test_time_precisions_leaves_no_trace(train, valid):
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], size=64, bs=4)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = ssd_learner(dls, 'resnet10t', pretrained=False, precision='fp32')
    before,random_state = {k:v.clone() for k,v in learn.model.state_dict().items()},torch.get_rng_state()
    t = time_precisions(learn.model, (64,64), n=1)
    assert set(t)=={'fp32','bf16'} and min(t.values())>0 and torch.equal(random_state,torch.get_rng_state())
    assert all(torch.equal(v,before[k]) for k,v in learn.model.state_dict().items())

"ONNX files keep their AP, run without PyTorch, and refuse what is not theirs; folders and tables"
import json, shutil, subprocess, sys
import numpy as np, pytest
from ssd_fastai.all import *
from ssd_fastai.ssd.detect import select
from ssd_fastai.use.cli import Stop, ssd_predict
from ssd_fastai.use.export import OnnxGraph, _check_ap, write_graph
from ssd_fastai.use.files import photo_batches
from ssd_fastai.ssd.tiles import Tiles
from ssd_fastai.use.onnx_detector import np_select

ort = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

@pytest.fixture(scope='module')
def learn(train, valid):
    set_seed(5, reproducible=True)
    dls = BBoxDataLoaders.from_annotations(train[:40], valid[:10], size=(64,96), bs=8)
    l = ssd_learner(dls, 'resnet10t', pretrained=False)
    with l.no_logging(): l.fine_tune(6)
    l.set_thresholds({'RBC':.2, 'WBC':.25, 'Platelets':.1})
    return l

@pytest.fixture(scope='module')
def file(learn, tmp_path_factory): return learn.to_onnx(tmp_path_factory.mktemp('x')/'d.onnx')

def test_select_in_numpy_equals_select_in_torch():
    rng = np.random.default_rng(0)
    for i in range(60):
        n,c = rng.integers(1,400),rng.integers(1,5)
        lo = rng.uniform(0,.8,(n,2))
        boxes = np.concatenate([lo,(lo+rng.uniform(-.02,.3,(n,2))).clip(0,1)],1).astype(np.float32)
        probs = rng.uniform(0,1,(n,c)).astype(np.float32)**2
        kw = dict(nms=rng.choice([.3,.45,.7]) if i%5 else None, top_k=int(rng.integers(5,300)), keep=int(rng.integers(3,200)))
        a = select(torch.tensor(probs), torch.tensor(boxes), .2, **kw)
        b = np_select(boxes, probs, np.full(c,.2), **kw)
        assert len(a[1])==len(b[1]) and np.allclose(a[1],b[1])
        assert np.allclose(a[0],b[0]) and (a[2].numpy()==b[2]).all()

def test_the_file_says_what_the_learner_says(learn, file, valid):
    det = OnnxDetector(file)
    photos = [r.path for r in valid[:6]]
    many = det.predict(photos)
    for f,m in zip(photos,many):
        a,b = learn.predict(f),det.predict(f)
        assert a.names==b.names==m.names and np.allclose(a.boxes,b.boxes,atol=.02) and np.allclose(a.scores,b.scores,atol=1e-4)
        assert np.allclose(b.boxes,m.boxes,atol=1e-3)
        raw = learn.predict(f, nms=None, min_score=.2)
        assert len(raw)==len(det.predict(f, nms=None, min_score=.2, top_k=400, keep=10**6))
    assert det.meta['thresholds']==learn.thresholds and det.vocab==learn.dls.vocab and 'RBC' in repr(det)

@pytest.mark.parametrize('name', ['resnet18','lite0','convnext','booster','ssdlite3','ssdlite2','ssd300','2018','focal'])
def test_every_kind_of_model_exports(name, tmp_path):
    "In batches of another length than the one it was traced with"
    size = (64,96)
    def own(arch, strides, **kw):
        body,kind = ssd_body(arch, strides, False),kw.pop('background',True)
        boxes = DefaultBoxes(feature_grids(body,strides,size), [torch.rand(2,2)*.5]*len(strides))
        return SSD(body, boxes, 3, size, kind, width=16, **kw)
    def with_neck(arch, strides):
        body = ssd_body(arch, strides, False)
        return SSD(body, DefaultBoxes(feature_grids(body,strides,size),[torch.rand(2,2)*.5]*3), 3, size,
                   neck=TopDown(body.chs,16), width=16)
    make = dict(resnet18=lambda: with_neck(resnet18,[4,8,16]), lite0=lambda: with_neck('tf_efficientnet_lite0',[8,16,32]),
                convnext=lambda: own('convnext_atto',[8,16,32]), booster=lambda: own(resnet18,[8,16,32,64],boosters=2),
                focal=lambda: own('resnet10t',[8,16],background=False), ssd300=lambda: ssd300_vgg16(3),
                ssdlite3=lambda: ssdlite320_mobilenet_v3_large(3), ssdlite2=lambda: ssdlite320_mobilenet_v2(3))
    make['2018'] = lambda: ssd_2018(resnet18, 3, (224,224), False)
    torch.manual_seed(1)
    graph = OnnxGraph(make[name]().eval(), ([.5]*3,[.2]*3)).eval()
    size = tuple(make[name]().size)
    write_graph(graph, size, tmp_path/'m.onnx', dict(vocab=['a','b','c'],size=size,thresholds=.3))
    x = torch.randint(0,255,(3,*size,3),dtype=torch.uint8)
    with torch.no_grad(): want = graph(x)
    got = ort.InferenceSession(str(tmp_path/'m.onnx'),providers=['CPUExecutionProvider']).run(None,{'photos':x.numpy()})
    for a,b in zip(want,got): assert np.abs(a.numpy()-b).max()<2e-5

def test_a_file_with_another_ap_is_not_left(learn, tmp_path, file):
    write_graph(OnnxGraph(learn.model), learn.model.size, tmp_path/'bad.onnx', OnnxDetector(file).meta)
    with pytest.raises(ValueError, match='the file was deleted'): _check_ap(tmp_path/'bad.onnx', learn, .001)
    assert not (tmp_path/'bad.onnx').exists()

def test_int8_is_small_and_close(learn, tmp_path, file):
    f = learn.to_onnx(tmp_path/'s.onnx', int8=True, check=.05)
    assert f.stat().st_size<.4*file.stat().st_size and OnnxDetector(f).meta['int8']

def test_without_torch(file, valid, tmp_path):
    "In a Python that has nothing but numpy, PIL and onnxruntime"
    code = f'''
import sys
class Wall:
    def find_spec(self, name, *a):
        heavy = ('torch','fastai','fastcore','torchvision','pandas','scipy','timm','matplotlib')
        if name.split('.')[0] in heavy: raise ImportError(name)
sys.meta_path.insert(0, Wall())
from ssd_fastai.use.onnx_detector import OnnxDetector
d = OnnxDetector({str(file)!r}).predict({str(valid[0].path)!r})
assert len(d) and 'torch' not in sys.modules
print(len(d))'''
    r = subprocess.run([sys.executable,'-c',code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert r.returncode==0, r.stderr[-500:]
    assert int(r.stdout)==len(OnnxDetector(file).predict(valid[0].path))

def test_foreign_and_damaged_files(tmp_path, file):
    import onnx
    m = onnx.load(file)
    del m.metadata_props[:]
    onnx.save(m, tmp_path/'foreign.onnx')
    (tmp_path/'torn.onnx').write_bytes(Path(file).read_bytes()[:5000])
    for name,says in (('foreign','no detector of this library'),('torn','damaged'),('none','There is no detector')):
        with pytest.raises((ValueError,FileNotFoundError), match=says): OnnxDetector(tmp_path/f'{name}.onnx')
    with pytest.raises(Stop, match='no detector of this library'):
        _predict_one(tmp_path)

def _predict_one(tmp_path):
    Image.new('RGB',(40,30)).save(tmp_path/'p.jpg')
    ssd_predict(str(tmp_path/'foreign.onnx'), str(tmp_path/'p.jpg'), tmp_path/'o')

@pytest.mark.parametrize('method', ['squish','pad','crop'])
def test_photos_brought_to_size_in_any_way(learn, train, valid, tmp_path, method):
    "On 60 photos of many shapes, some on their side"
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:10], item_tfms=[BoxResize((64,96),method)], size=(64,96))
    l = SSDLearner(dls, learn.model)
    det = OnnxDetector(l.to_onnx(tmp_path/'x.onnx'))
    assert det.meta['method']==method
    rng,n = np.random.default_rng(0),0
    for i,r in enumerate(train[:60]):
        im = open_photo(r.path)
        if i%3: im = im.crop((0,0,*rng.integers(60,im.size).tolist()))
        if i%7==0: im = im.transpose(Image.Transpose.ROTATE_90)
        a,b = l.predict(im, min_score=.1),det.predict(im, min_score=.1)
        n += len(a)
        assert a.names==b.names and np.allclose(a.boxes,b.boxes,atol=.5) and np.allclose(a.scores,b.scores,atol=1e-3)
        assert (a.boxes[:,2:]>a.boxes[:,:2]).all() and (a.boxes<=torch.tensor(im.size*2)).all()
    assert n>100

def test_a_file_looks_in_tiles(learn, file, valid, tmp_path):
    "As the learner does, with the tile size that it was given"
    big,one = Image.new('RGB',(640,480)),open_photo(valid[0].path)
    for i in range(4): big.paste(open_photo(valid[i].path), (i%2*320,i//2*240))
    det = OnnxDetector(file)
    for tiles in (True,(200,160),Tiles((320,240),.3)):
        a,b = learn.predict(big, tiles=tiles),det.predict(big, tiles=tiles)
        assert a.names==b.names and np.allclose(a.boxes,b.boxes,atol=.05)
    assert det.tiles().note()==learn.model.tiles.note() and len(det.predict([big,one],tiles=True)[1])
    det.meta.pop('tiles')
    with pytest.raises(ValueError, match='pass tiles='): det.predict(big, tiles=True)

def test_weights_files_know_their_tiles(learn, train, valid, tmp_path):
    learn.save_weights(tmp_path/'w.safetensors')
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], size=(64,96))
    l = ssd_learner(dls, 'resnet10t', pretrained=False)
    l.model.tiles = Tiles((50,50))
    l.load_weights(tmp_path/'w.safetensors')
    assert l.model.tiles.note()==learn.model.tiles.note()

def test_deep_photos_are_refused(file):
    det = OnnxDetector(file)
    for bad in (Image.new('I;16',(40,30)), Image.new('F',(40,30)), np.zeros((30,40,3))):
        with pytest.raises(ValueError, match='save it with 8 bits|as uint8'): det.predict(bad)

# Folders and tables

@pytest.fixture
def folder(valid, tmp_path):
    (tmp_path/'in/sub').mkdir(parents=True)
    for i,r in enumerate(valid[:7]): shutil.copy(r.path, tmp_path/('in/sub' if i%2 else 'in')/f'{i}.jpg')
    (tmp_path/'in/torn.jpg').write_bytes(b'xx')
    return tmp_path/'in'

def test_predict_files_is_predict(learn, folder):
    df = learn.predict_files(folder, bs=3)
    assert df.error.notna().sum()==1 and 'torn.jpg' in df[df.error.notna()].file.iloc[0]
    for f,t in df[df.error.isna()].groupby('file'):
        want = learn.predict(f)
        t = t[t['class'].notna()]
        assert t['class'].tolist()==want.names and np.allclose(t[['x0','y0','x1','y1']], want.boxes, atol=1e-2)
    assert len(df.file.unique())==8

def test_a_large_photo_in_tiles(learn, valid, tmp_path):
    "In a table as by predict; a photo of the usual size as ever"
    big,one = Image.new('RGB',(640,480)),open_photo(valid[0].path)
    for i in range(4): big.paste(one, (i%2*320,i//2*240))
    big.save(tmp_path/'big.png')
    want,df = learn.predict(big, tiles=True),learn.predict_files(tmp_path, tiles=True)
    assert len(want) and df['class'].tolist()==want.names and np.allclose(df[['x0','y0','x1','y1']], want.boxes, atol=1e-2)
    assert torch.equal(learn.predict(one,tiles=True).boxes, learn.predict(one).boxes)
    with pytest.raises(ValueError, match='give .width, height.'): learn.predict(big, tiles=5)

def test_a_generator_is_enough_and_little_is_read_ahead(learn, valid):
    seen = []
    def paths():
        for r in valid[:9]:
            seen.append(1)
            yield r.path
    batches = photo_batches(paths(), 2)
    next(batches)
    assert len(seen)<=4
    assert len(learn.predict_files((r.path for r in valid[:5]), bs=2).file.unique())==5
    with pytest.raises(ValueError, match='no photos'): learn.predict_files([])

def test_what_comes_out_reads_in_again(learn, folder, tmp_path):
    "In each format; classes that were not found are classes all the same"
    df = learn.predict_files(folder)
    n = df['class'].notna().sum()
    ann = found_annotations(df)
    assert len(ann)==7 and sum(len(r.labels) for r in ann)==n and ann.vocab==learn.dls.vocab
    flat = df[df['class']!='RBC']
    assert type(flat).__name__=='FoundTable' and found_annotations(flat).vocab==learn.dls.vocab
    shutil.copytree(folder/'sub', tmp_path/'photos')
    for f in folder.glob('?.jpg'): shutil.copy(f, tmp_path/'photos')
    df['file'] = [str(tmp_path/'photos'/Path(f).name) for f in df.file]
    ann = {r.path.name:r for r in found_annotations(df)}
    df.to_coco(tmp_path/'a.json')
    df.to_voc(tmp_path/'xml')
    df.to_yolo(tmp_path/'yolo')
    photos = tmp_path/'photos'
    for again in (read_coco(tmp_path/'a.json',photos), read_voc(photos,tmp_path/'xml'), read_yolo(tmp_path/'yolo')):
        assert len(again)==7
        for r in again:
            assert r.labels==ann[r.path.name].labels and np.allclose(r.boxes, ann[r.path.name].boxes, atol=.1)
    c = df.counts()
    assert list(c.columns)==learn.dls.vocab and len(c)==7 and c.to_numpy().sum()==n

def test_windows_that_crop_and_pad(train, valid):
    for method in ('pad','crop'):
        dls = BBoxDataLoaders.from_annotations(train[:8], valid[:4], item_tfms=[BoxResize((64,64),method)], size=(64,64))
        l = ssd_learner(dls, 'resnet10t', pretrained=False)
        a = l.predict(valid[0].path, min_score=.02)
        b = l.predict_batch([open_photo(r.path) for r in valid[:2]], min_score=.02)[0]
        assert a.names==b.names and torch.allclose(a.boxes, b.boxes, atol=1e-2)

def test_drawing(learn, valid):
    det = learn.predict(valid[0].path, min_score=.05)
    im = draw_found(det.photo, det)
    assert im.size==det.photo.size and im is not det.photo and np.abs(np.asarray(im,int)-np.asarray(det.photo,int)).max()>50

def test_the_terminal_takes_onnx_and_writes_a_table(learn, file, folder, tmp_path, capsys):
    assert ssd_predict(str(file), str(folder), tmp_path/'o', csv=True, no_pictures=True)==1
    rows = json.loads((tmp_path/'o/detections.json').read_text())
    df = pd.read_csv(tmp_path/'o/detections.csv')
    assert not list((tmp_path/'o').rglob('*.png')) and df['class'].notna().sum()==sum('label' in r for r in rows)
    want = learn.predict_files(folder)
    assert df['class'].dropna().tolist()==want['class'].dropna().tolist()
    assert '7 photos: detections.json is in' in capsys.readouterr().out

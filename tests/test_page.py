"The page resizes as PIL does, finds what OnnxDetector finds, and asks nobody; the app needs no PyTorch"
import json, os, re, shutil, subprocess, sys
import numpy as np, pytest
from ssd_fastai.all import *
from ssd_fastai.use.page import _resize_js, add_runtime, runtime_files, write_page
from browser import browser, chromium, served

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

@pytest.fixture(scope='module')
def runtime(tmp_path_factory):
    "onnxruntime-web, from npm"
    if not shutil.which('npm'): pytest.skip('npm is not installed')
    d = tmp_path_factory.mktemp('runtime')
    if add_runtime(d)!='./': pytest.skip('npm cannot fetch onnxruntime-web')
    return d

@pytest.fixture(scope='module')
def learn(train, valid):
    set_seed(5, reproducible=True)
    l = ssd_learner(BBoxDataLoaders.from_annotations(train[:40], valid[:10], size=(96,128), bs=4), 'resnet10t', pretrained=False)
    with l.no_logging(): l.fine_tune(6)
    l.set_thresholds({'RBC':.3, 'WBC':.25, 'Platelets':.2})
    return l

def test_resizing_is_that_of_PIL(tmp_path):
    "To one step of 256: PIL 13 takes columns first where a photo shrinks more in height; windows to the last bit"
    if not shutil.which('node'): pytest.skip('Node is not installed')
    from ssd_fastai.data.windows import crop_resize, fitted_window
    rng,cases,wants,wins = np.random.default_rng(3),[],[],[]
    for i in range(45):
        w,h = (int(v) for v in rng.integers(3,700,2))
        a = rng.integers(0,256,(h,w,3),dtype=np.uint8)
        size,method = [int(v) for v in rng.integers(8,160,2)],['squish','pad','crop'][i%3]
        wins.append(fitted_window((w,h),size,method))
        wants.append(np.asarray(crop_resize(Image.fromarray(a),wins[-1],size),int))
        cases.append(dict(w=w, h=h, data=a.ravel().tolist(), size=size, method=method))
    (tmp_path/'cases.json').write_text(json.dumps(cases))
    js = _resize_js+'''
for (const c of JSON.parse(require('fs').readFileSync('cases.json'))) {
  const win = fittedWindow([c.w,c.h],c.size,c.method)
  console.log(JSON.stringify([win, Array.from(cropResize(c,win,c.size).data)]))
}'''
    out = subprocess.run(['node','-e',js], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for line,want,win in zip(out.splitlines(),wants,wins,strict=True):
        got_win,got = json.loads(line)
        diff = np.abs(np.array(got).reshape(want.shape)-want)
        assert np.array_equal(got_win,win) and diff.max()<=1

@pytest.mark.skipif(chromium is None, reason='Chromium is not installed')
@pytest.mark.parametrize('method', ['squish','pad'])
def test_a_photo_dropped_onto_the_page(learn, train, valid, runtime, tmp_path, method):
    dls = BBoxDataLoaders.from_annotations(train[:8], valid[:10], item_tfms=[BoxResize((96,128),method)], size=(96,128))
    l = SSDLearner(dls, learn.model)
    l.to_page(tmp_path/'page', title='Cells </script> & more', runtime=runtime)
    names = []
    for i,r in enumerate(valid[:4]):
        im = open_photo(r.path).resize([(320,240),(1500,1100),(200,300),(97,61)][i])
        if i==2: im.putalpha(Image.linear_gradient('L').resize(im.size))
        im.save(tmp_path/f'page/{i}.png')
        names.append(f'{i}.png')
    turned = Image.Exif()
    turned[0x112] = 6
    open_photo(valid[4].path).save(tmp_path/'page/turned.png', exif=turned)
    names.append('turned.png')
    det = OnnxDetector(tmp_path/'page/detector.onnx', ['CPUExecutionProvider'])
    with served(tmp_path/'page') as url,browser(url,tmp_path) as page:
        page.wait('window.ready')
        assert page.js('document.title')=='Cells </script> & more'
        for name in names:
            page.js('window.objects = null')
            page.drop(url+name)
            page.wait('window.objects')
            got,want = page.js('window.objects.map(o => ({...o, box:Array.from(o.box)}))'),det.predict(tmp_path/'page'/name)
            assert [o['name'] for o in got]==want.names, name
            assert not len(want) or np.abs(np.array([o['box'] for o in got])-want.boxes).max()<1
            assert np.allclose([o['score'] for o in got], want.scores, atol=.01)
        page.js("at('cut').value = .9; at('cut').dispatchEvent(new Event('input'))")
        high = page.js('window.objects.length')
        assert high<=len(got) and all(s>=.9 for s in page.js('window.objects.map(o => o.score)'))
        page.js("at('own').click()")
        assert page.js('window.objects.length')==len(got)
        (tmp_path/'page/no.png').write_bytes(b'no photo')
        page.drop(url+'no.png')
        page.wait("at('says').textContent.includes('cannot be opened')")
        assert not page.errors and all(u.startswith((url,'blob:','data:')) for u in page.asked), page.asked
        if os.environ.get('SSD_FASTAI_PICTURE'): page.picture(os.environ['SSD_FASTAI_PICTURE'])

def test_a_page_without_network_says_so(learn, file_of, tmp_path, monkeypatch, capsys):
    import ssd_fastai.use.page as module
    def no(folder): raise OSError('no network')
    monkeypatch.setattr(module, '_by_npm', no)
    monkeypatch.setattr(module, '_by_url', no)
    shutil.copy(file_of, tmp_path/'detector.onnx')
    text = write_page(tmp_path).read_text()
    assert module.runtime_url+'ort.wasm.min.js' in text and 'could not be fetched' in capsys.readouterr().out
    assert not set(runtime_files)&{o.name for o in tmp_path.iterdir()}
    assert not re.search('@[a-z]+@',text) and '"cut": {"RBC": 0.3' in text

@pytest.fixture(scope='module')
def file_of(learn, tmp_path_factory): return learn.to_onnx(tmp_path_factory.mktemp('f')/'d.onnx')

def test_the_app_starts_without_torch(learn, valid, tmp_path):
    "In a Python that has nothing of the heavy packages, with a stand-in for gradio unless it is installed"
    app = learn.to_space(tmp_path/'space', title="Lena's cells")
    (tmp_path/'stub').mkdir()
    (tmp_path/'stub/gradio.py').write_text('''
class Any:
    def __init__(self, *a, **k): pass
    def __enter__(self): return self
    def __exit__(self, *a): pass
    def click(self, f, *a): Any.f = staticmethod(f)
Blocks = Row = Column = Image = Checkbox = Slider = Button = AnnotatedImage = Dataframe = Markdown = Any
class Error(Exception): pass
''')
    code = f'''
import sys
class Wall:
    def find_spec(self, name, *a):
        heavy = ('torch','fastai','fastcore','torchvision','scipy','timm')
        if name.split('.')[0] in heavy: raise ImportError(name)
sys.meta_path.insert(0, Wall())
sys.path[:0] = [{str(app.parent)!r},{str(tmp_path/'stub')!r}]
import app, ssd_fastai, json
from PIL import Image
assert ssd_fastai.__file__.startswith({str(app.parent)!r}) and 'torch' not in sys.modules
(photo,boxes),rows = app.find(Image.open({str(valid[0].path)!r}), False, .5, False)
print(json.dumps([len(boxes),[r[0] for r in rows]]))'''
    r = subprocess.run([sys.executable,'-c',code], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode==0, r.stderr[-800:]
    n,names = json.loads(r.stdout)
    want = OnnxDetector(app.parent/'detector.onnx').predict(valid[0].path)
    assert n==len(want) and names==want.names
    head = (app.parent/'README.md').read_text().split('---')[1]
    assert 'title: "Lena\'s cells"' in head and 'sdk: gradio' in head and 'app_file: app.py' in head

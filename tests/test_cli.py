"The terminal: bad arguments are one line, bad photos are rows, results are whole at any moment"
import json, signal, subprocess, sys, time
import numpy as np, pytest
from ssd_fastai.all import *
from ssd_fastai.use.cli import ResultsFile, Stop, find_arch, parse_size, ssd_predict, ssd_train

@pytest.fixture(scope='module')
def detector(train, valid, tmp_path_factory):
    d = tmp_path_factory.mktemp('detector')
    set_seed(1)
    t,v = (a.rename({'RBC':'$ and $'}) for a in (train[:16],valid[:4]))
    dls = BBoxDataLoaders.from_annotations(t, v, size=(96,128), bs=4, path=d)
    learn = ssd_learner(dls, 'resnet10t', pretrained=False, precision='fp32')
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 2e-3)
    learn.export('d.pkl')
    return d/'d.pkl'

def photos(folder, n, broken=()):
    folder.mkdir()
    for i in range(n):
        f = folder/f'{i:03}.jpg'
        if i in broken: f.write_bytes(b'no photo at all')
        else: draw_smear(np.random.default_rng(i), (64,48))[0].save(f)
    return folder

def test_a_broken_photo_is_a_row(detector, tmp_path, capsys):
    broken = set(range(3,100,14))
    assert len(broken)==7
    src,out = photos(tmp_path/'in',100,broken),tmp_path/'out'
    assert ssd_predict(detector, src, out, min_score=.2)==7
    rows = json.loads((out/'detections.json').read_text())
    assert {r['file_name'] for r in rows if 'error' in r}=={f'{i:03}.jpg' for i in broken}
    assert all('remove it and its label' in r['error'] for r in rows if 'error' in r)
    assert {r['label'] for r in rows if 'error' not in r}<={'$ and $','WBC','Platelets'}
    assert len(list(out.glob('*.png')))==93
    said = capsys.readouterr().out
    assert '93 photos with boxes' in said and '7 photos could not be read' in said
    assert 'can run any program' in said

def test_kill_in_the_middle_leaves_what_was_done(detector, tmp_path):
    src,out = photos(tmp_path/'in',60),tmp_path/'out'
    code = f'from ssd_fastai.use.cli import ssd_predict; ssd_predict({str(detector)!r},{str(src)!r},{str(out)!r},.001)'
    p = subprocess.Popen([sys.executable,'-c',code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic()+120
    while not (out/'detections.json').exists() and p.poll() is None and time.monotonic()<end: time.sleep(.02)
    p.send_signal(signal.SIGKILL)
    p.wait()
    rows = json.loads((out/'detections.json').read_text())
    assert rows and all(r['file_name'].endswith('.jpg') for r in rows)

def test_results_file_is_whole_after_every_write(tmp_path):
    f = ResultsFile(tmp_path/'a.json', every=0)
    for i in range(3):
        f.add([dict(i=i)])
        assert len(json.loads((tmp_path/'a.json').read_text()))==i+1
    assert [o.name for o in tmp_path.iterdir()]==['a.json']

@pytest.mark.parametrize('kw,say', [(dict(epochs=0),'--epochs 0'), (dict(size='96x128'),'--size 96x128'),
                                    (dict(arch='resnet99'),'--arch resnet99'), (dict(bs=0),'--bs 0'),
                                    (dict(lr=0.),'--lr 0.0'), (dict(strides='4,9'),'--strides 4,9'),
                                    (dict(width=0),'--width 0'), (dict(weights='none.pth'),'--weights none.pth'),
                                    (dict(test='test'),'--test test')])
def test_bad_arguments_are_told_before_anything_starts(tmp_path, kw, say):
    with pytest.raises(Stop, match=say): ssd_train(out=tmp_path/'o', **kw)
    assert not (tmp_path/'o').exists()

def test_what_is_no_detector_or_no_photo(detector, tmp_path):
    (tmp_path/'x.pkl').write_bytes(b'nothing')
    with pytest.raises(Stop, match='no photos'): ssd_predict(detector, tmp_path/'gone', out=tmp_path/'o')
    with pytest.raises(Stop, match='no photos'): ssd_predict(detector, tmp_path, out=tmp_path/'o')
    src = photos(tmp_path/'in',1)
    for model,say in ((tmp_path,'is a folder'), (tmp_path/'no.pkl','no detector'), (tmp_path/'x.pkl','is not a detector')):
        with pytest.raises(Stop, match=say): ssd_predict(model, src, out=tmp_path/'o')

def run(*args, **kwargs): return subprocess.run([sys.executable,'-c',*args], capture_output=True, text=True, **kwargs)

@pytest.mark.parametrize('main,args', [('train_main',['--epochs','0']), ('train_main',['--size','96x128']),
                                       ('predict_main',['nowhere.pkl','.'])])
def test_one_line_and_exit_code_2(tmp_path, main, args):
    r = run(f'import sys; sys.argv=["x",*{args!r}]; from ssd_fastai.use.cli import {main}; {main}()', cwd=tmp_path)
    assert r.returncode==2 and len(r.stderr.strip().splitlines())==1 and not r.stdout, (r.returncode,r.stderr)

def test_a_missing_folder_is_one_line(tmp_path):
    r = run('import sys; sys.argv=["x","--data","nowhere"]; from ssd_fastai.use.cli import train_main; train_main()',
            cwd=tmp_path)
    assert r.returncode==1 and r.stderr.strip()=='There is no folder nowhere.', r.stderr

def test_training_into_a_file_is_plain_text_and_has_the_guard(tmp_path):
    "What `python -m ssd_fastai` imports is enough: the guard is there, no bars, no noise"
    make_cells(tmp_path/'cells', n=20, size=(96,64))
    args = ['x','--data','cells','--epochs','1','--size','64,96','--arch','resnet10t','--out','o']
    code = f'''import sys
from ssd_fastai.use.cli import _cli, ssd_train
sys.argv = {args!r}
_cli(ssd_train)
learn = ssd_train('cells', 'o2', 'resnet10t', epochs=1, size='64,96')
assert 'ssd_fastai.all' not in sys.modules
assert 'NaNGuard' in [type(c).__name__ for c in learn.cbs]'''
    r = run(code, cwd=tmp_path)
    assert r.returncode==0, r.stderr[-800:]
    assert not {'\r','\x1b','█'}&set(r.stdout) and 'Warning: `torch' not in r.stderr
    assert sorted(p.name for p in (tmp_path/'o').iterdir())==['detections.png','detector.pkl']

def test_sizes_and_models():
    assert (parse_size('96,128'),parse_size('(96, 128)'),parse_size('64'))==((96,128),(96,128),(64,64))
    for o in ('²','9²','-4','1.5',''):
        with pytest.raises(Stop): parse_size(o)
    assert find_arch('resnet18') is not None and find_arch('resnet10t')=='resnet10t'
    assert find_arch('ssdlite320_mobilenet_v3_large').__name__=='ssdlite320_mobilenet_v3_large'
    with pytest.raises(Stop, match='resnet'): find_arch('resnet99')

def test_strides_width_weights_and_mirrors(tmp_path):
    "What is typed reaches the model, the body and the augmentation"
    import torch
    from torchvision.models import resnet18
    torch.manual_seed(4)
    torch.save(resnet18(weights=None).state_dict(), tmp_path/'w.pth')
    make_cells(tmp_path/'d', n=10)
    learn = ssd_train(tmp_path/'d', tmp_path/'o', weights=str(tmp_path/'w.pth'), strides='8,16', width=24, flip_vert=True,
                      epochs=1, size='64,96', lr=1e-9)
    m = learn.model
    assert m.body.strides==[8,16] and m.head.neck.chs==[24,24] and learn.pretrained
    assert torch.allclose(m.body.parts[0][0].weight, torch.load(tmp_path/'w.pth')['conv1.weight'], atol=1e-5)
    assert learn.dls.train.after_item[0].p_flip_vert==.5

def test_the_body_that_nobody_names(monkeypatch):
    from ssd_fastai.ssd import pretrained
    from ssd_fastai.use.cli import _usual_arch
    monkeypatch.setattr(pretrained, 'wheel_file', lambda a: 'file')
    assert (_usual_arch(True),_usual_arch(False))==('tf_efficientnet_lite0','resnet18')
    monkeypatch.setattr(pretrained, 'wheel_file', lambda a: None)
    assert _usual_arch(True)=='resnet18'

# Interrupted, resumed; tiles; films

def _onnx(tmp_path):
    "A small detector that finds something"
    pytest.importorskip('onnxscript')
    path = make_cells(tmp_path/'cells', n=60)
    train,valid = (read_coco(path/f'{o}.json', path/'images') for o in ('train','valid'))
    learn = ssd_learner(BBoxDataLoaders.from_annotations(train, valid, size=(96,128), bs=4), 'resnet10t', pretrained=False)
    with learn.no_logging(): learn.fine_tune(8)
    learn.set_thresholds(.1)
    return learn.to_onnx(tmp_path/'d.onnx', check=1),path/'images'

def test_an_interrupted_run_goes_on(tmp_path, capsys, monkeypatch):
    from ssd_fastai.use import files as files_module
    model,photos = _onnx(tmp_path)
    (photos/'a_torn.jpg').write_bytes(b'xx')
    kw = dict(csv=True, min_score=.1, bs=4)
    ssd_predict(str(model), str(photos), tmp_path/'want', **kw)
    assert not (tmp_path/'want/detections.part').exists()
    draw,seen = files_module.draw_found,[]
    def cut(photo, det):
        if len(seen)==9: raise KeyboardInterrupt
        seen.append(1)
        return draw(photo, det)
    monkeypatch.setattr(files_module, 'draw_found', cut)
    with pytest.raises(KeyboardInterrupt): ssd_predict(str(model), str(photos), tmp_path/'o', **kw)
    assert len(json.loads((tmp_path/'o/detections.json').read_text()))
    with open(tmp_path/'o/detections.part','a') as f: f.write('{"name": "half of a li')
    monkeypatch.setattr(files_module, 'draw_found', lambda *a: seen.append(1) or draw(*a))
    capsys.readouterr()
    ssd_predict(str(model), str(photos), tmp_path/'o', **kw)
    assert 'Continuing after 10 photos' in capsys.readouterr().out and len(seen)==60
    want,got = (json.loads((tmp_path/o/'detections.json').read_text()) for o in ('want','o'))
    def key(r): return r['file_name'],r['image_id'],r.get('label')
    assert [key(r) for r in want]==[key(r) for r in got]
    assert np.allclose([r['bbox'] for r in want if 'bbox' in r],[r['bbox'] for r in got if 'bbox' in r],atol=1e-3)
    a,b = (pd.read_csv(tmp_path/o/'detections.csv') for o in ('want','o'))
    pd.testing.assert_frame_equal(a, b, atol=1e-3)
    assert sorted(p.name for p in (tmp_path/'want').iterdir())==sorted(p.name for p in (tmp_path/'o').iterdir())
    capsys.readouterr()
    shutil.copy(tmp_path/'o/detections.json', tmp_path/'keep.json')
    (tmp_path/'o/detections.part').write_text('{"model": "another"}')
    ssd_predict(str(model), str(photos), tmp_path/'o', **kw)
    assert 'starting over' in capsys.readouterr().out

def test_tiles_and_films_in_the_terminal(tmp_path, capsys):
    pytest.importorskip('av')
    from ssd_fastai.use.video import paint_film, video_frames
    model,photos = _onnx(tmp_path)
    big = Image.new('RGB',(960,480))
    for i,f in enumerate(sorted(photos.iterdir())[:6]): big.paste(Image.open(f), (i%3*320,i//3*240))
    (tmp_path/'big').mkdir()
    big.save(tmp_path/'big/a.png')
    for tiles,same in (('auto',True),('320,240',(320,240)),(None,None)):
        ssd_predict(str(model), str(tmp_path/'big'), tmp_path/'o', tiles=tiles)
        rows = json.loads((tmp_path/'o/detections.json').read_text())
        want = OnnxDetector(model).predict(tmp_path/'big/a.png', tiles=same)
        assert [r['label'] for r in rows]==want.names and len(want)>20
    for bad in ('yes','5,5','1,2,3'):
        with pytest.raises(Stop, match='--tiles'): ssd_predict(str(model), str(tmp_path/'big'), tmp_path/'o', tiles=bad)
    paint_film(tmp_path/'a.mp4', n=8)
    assert ssd_predict(str(model), str(tmp_path/'a.mp4'), tmp_path/'o', every=2)==0
    assert '4 frames' in capsys.readouterr().out and len(list(video_frames(tmp_path/'o/a.mp4')))==8
    assert 'frame' in (tmp_path/'o/detections.csv').read_text().splitlines()[0]

"""Away from the notebook: what a photo costs, in CPU time, interleaved in one process with one thread.

    python tests/bench/deploy.py [arch] [photos]

network      the model alone on one photo: PyTorch in 32 bits, onnxruntime, and eight bits
predict      the whole way from a path to boxes: `learn.predict`, `OnnxDetector.predict`
files        `predict_files` for a photo, beside opening the photo and the network in a batch of the same size
pictures     drawing what was found and saving it: matplotlib (as `ssd_predict` once did) and PIL
terminal     a photo in `ssd_predict`, all included; beside it `predict` and matplotlib, as it once was
"""
import contextlib, io, shutil, statistics, sys, tempfile, time, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import torch
from ssd_fastai.all import *

def ms(fs, rounds=25):
    "Median CPU milliseconds of each function, called in turn"
    times = {k:[] for k in fs}
    for f in fs.values(): f()
    for _ in range(rounds):
        for k,f in fs.items():
            start = time.process_time()
            f()
            times[k].append((time.process_time()-start)*1000)
    return {k:statistics.median(v) for k,v in times.items()}

def told(title, res, per=1):
    first = next(iter(res.values()))
    print(title+': '+', '.join(f'{k} {v/per:.1f} ms ({v/first:.2f})' for k,v in res.items()), flush=True)

def in_terminal(model, folder, out, **kwargs):
    "A run of `ssd_predict`, told to nobody"
    from ssd_fastai.use.cli import ssd_predict
    with contextlib.redirect_stdout(io.StringIO()): ssd_predict(str(model), str(folder), out, **kwargs)

def by_matplotlib(det, file):
    fig = det.show(size=8).figure
    fig.savefig(file, bbox_inches='tight', dpi=110)
    plt.close(fig)

def main(arch='resnet18', n='100'):
    torch.set_num_threads(1)
    path = make_cells()
    train,valid = (read_coco(path/f'{o}.json', path/'images') for o in ('train','valid'))
    set_seed(1)
    dls = BBoxDataLoaders.from_annotations(train, valid, size=(192,256))
    with contextlib.redirect_stdout(io.StringIO()):
        learn = ssd_learner(dls, arch, pretrained=False, precision='fp32')
        with learn.no_bar(),learn.no_logging(): learn.fine_tune(2)
        d = Path(tempfile.mkdtemp())
        onnx,int8 = (OnnxDetector(learn.to_onnx(d/f'{o}.onnx', o, check=1), ['CPUExecutionProvider']) for o in (False,True))
    for o in (onnx,int8): _one_thread(o)
    files = (get_image_files(path/'images')[:int(n)])
    f,m = files[0],learn.eval_model()
    photo = open_photo(f)
    x = np.asarray(photo.resize((256,192)))[None]
    t = torch.from_numpy(x).permute(0,3,1,2).float()/255
    @torch.no_grad()
    def net(): return m(t)
    told('network', ms({'PyTorch':net, 'onnxruntime':lambda: onnx.session.run(None,{'photos':x}),
                        'int8':lambda: int8.session.run(None,{'photos':x})}))
    told('predict', ms({'learn':lambda: learn.predict(f), 'onnxruntime':lambda: onnx.predict(f), 'int8':lambda: int8.predict(f),
                        'network alone, PyTorch':net}))
    t8 = t.repeat(8,1,1,1)
    @torch.no_grad()
    def nets():
        for _ in range(0,len(files),8): m(t8)
    per = len(files)
    told('files', ms({'predict_files':lambda: learn.predict_files(files, progress=False), 'network alone':nets,
                      'opening alone':lambda: [open_photo(f) for f in files]}, 3), per)
    det = learn.predict(f, min_score=.1)
    told(f'pictures of {len(det)} objects', ms({'matplotlib':lambda: by_matplotlib(det,d/'a.png'),
                                                'PIL':lambda: draw_found(det.photo,det).save(d/'a.png')}, 10))

    learn.set_thresholds(.1)
    learn.export(d/'d.pkl')
    (d/'in').mkdir()
    for f in files: shutil.copy(f, d/'in')
    def once():
        for f in files: by_matplotlib(learn.predict(f), d/'a.png')
    told('terminal', ms({'predict and matplotlib':once, 'ssd_predict':lambda: in_terminal(d/'d.pkl', d/'in', d/'out'),
                         'without pictures':lambda: in_terminal(d/'d.pkl', d/'in', d/'out', no_pictures=True)}, 1), per)

def _one_thread(det):
    import onnxruntime as ort
    o = ort.SessionOptions()
    o.intra_op_num_threads = 1
    det.session = ort.InferenceSession(det.session._model_path, o, providers=['CPUExecutionProvider'])

if __name__=='__main__': main(*sys.argv[1:])

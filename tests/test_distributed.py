"Two CPU processes (gloo): the same AP as one on the same weights, each photo once, and they train"
import json, subprocess, sys
import pytest

pytest.importorskip('accelerate')
script = '''
import json, os, sys, torch, warnings; warnings.simplefilter('ignore'); torch.set_num_threads(1)
from ssd_fastai.all import *
cells,out,name = Path(sys.argv[1]),Path(sys.argv[2]),sys.argv[3]
train,valid = (read_coco(cells/f'{o}.json', cells/'images') for o in ('train','valid'))
set_seed(1, reproducible=True)
dls = BBoxDataLoaders.from_annotations(train[:16], valid[:7], size=(96,128), bs=4, device='cpu', path=out)
learn = ssd_learner(dls, 'resnet10t', pretrained=False, strides=(4,8,16), precision=sys.argv[4],
                    metrics=coco_metrics(['AP','AP50','AR 100']))
learn.remove_cb(ProgressCallback)
rank = int(os.environ.get('RANK',0)); w = out/'w.pth'; first = not w.exists(); losses = []
if not first: learn.model.load_state_dict(torch.load(w))
with learn.distrib(), learn.no_logging():
    if first:
        learn.fit_one_cycle(6, 5e-3); losses = [float(v[0]) for v in learn.recorder.values]
        if rank==0: torch.save(learn.model.state_dict(), w)
    res = learn.validate()
ev = learn.metrics[0].ev
(out/f'{name}_{rank}.json').write_text(json.dumps(dict(
    res=list(map(float,res)), numbers=sorted(i['number'] for i in ev.images), objects=len(ev.anns), losses=losses,
    patched='forward' in learn.model.__dict__,
    weights=[float(p.detach().double().norm()) for p in learn.model.parameters()])))
'''

@pytest.mark.parametrize('precision', ['bf16'])
def test_two_processes_equal_one(cells, valid, tmp_path, precision):
    job = tmp_path/'job.py'
    job.write_text(script)
    def run(name, n):
        how = ['-m','torch.distributed.run','--standalone','--nproc_per_node',str(n)] if n>1 else []
        r = subprocess.run([sys.executable,'-W','ignore',*how,str(job),str(cells),str(tmp_path),name,precision],
                           capture_output=True, text=True, timeout=600)
        assert r.returncode==0, r.stderr[-3000:]
        return [json.loads((tmp_path/f'{name}_{i}.json').read_text()) for i in range(n)]
    a,b = run('two',2)
    one, = run('one',1)
    assert a['weights']==pytest.approx(b['weights'],rel=1e-5) and a['losses'][-1]<a['losses'][0]-.1 and not a['patched']
    assert a['res'][1:]==b['res'][1:]==pytest.approx(one['res'][1:],abs=1e-6) and a['res'][2]>0
    for o in (a,b,one): assert o['numbers']==list(range(7)) and o['objects']==sum(len(r.labels) for r in valid[:7])

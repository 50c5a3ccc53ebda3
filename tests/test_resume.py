"Killed in the middle of an epoch; checkpoints that are not whole"
import os, signal, subprocess, sys
import pytest, torch
from ssd_fastai.all import *
from ssd_fastai.train.resume import load_checked, save_atomic

script = '''
import os, signal, sys, warnings; warnings.simplefilter('ignore')
import torch; torch.set_num_threads(1)
from ssd_fastai.all import *
cells,out,kill,use = Path(sys.argv[1]),Path(sys.argv[2]),sys.argv[3]=='kill',sys.argv[3]!='plain'
set_seed(5, reproducible=True)
train,valid = (read_coco(cells/f'{o}.json', cells/'images') for o in ('train','valid'))
dls = BBoxDataLoaders.from_annotations(train[:32], valid[:8], size=(64,96), bs=4, path=out)
learn = ssd_learner(dls, 'resnet10t', pretrained=False, strides=(4,8,16), precision='fp32', metrics=coco_metrics())
class Kill(Callback):
    order = 99
    def after_batch(self):
        if self.training and not self.learn.opt.frozen_idx and self.learn.epoch==1 and self.learn.iter==5: os.kill(os.getpid(), signal.SIGKILL)
learn.remove_cb(ProgressCallback)
with learn.no_logging(): learn.fine_tune(2, 3e-3, freeze_epochs=1, cbs=([Resumable(out/'run.ckpt', every=4)] if use else [])+([Kill()] if kill else []))
torch.save(dict(model=learn.model.state_dict(), ap=learn.validate()[1:], losses=[float(o) for o in learn.recorder.losses]), out/f'{sys.argv[3]}.pth')
'''

def test_kill_9_and_go_on(cells, tmp_path):
    def run(how): return subprocess.run([sys.executable,'-W','ignore','-c',script,str(cells),str(tmp_path),how], capture_output=True, text=True)
    plain,killed = run('plain'),run('kill')
    assert plain.returncode==0, plain.stderr
    assert killed.returncode==-signal.SIGKILL and (tmp_path/'run.ckpt').exists() and not (tmp_path/'kill.pth').exists()
    again = run('resume')
    assert again.returncode==0, again.stderr
    assert 'Going on from run.ckpt: epoch 1 (counted from 0), 4 of its 8 batches are done' in again.stdout
    a,b = (torch.load(tmp_path/f'{o}.pth', weights_only=False) for o in ('plain','resume'))
    assert a['ap'][1]>0 and all(abs(x-y)<1e-3 for x,y in zip(a['ap'],b['ap']))
    assert all(torch.allclose(v.float(),b['model'][k].float(),atol=1e-6) for k,v in a['model'].items())

def test_half_written_is_never_loaded(tmp_path):
    f = tmp_path/'a.ckpt'; save_atomic(dict(x=torch.arange(1000)), f); whole = f.read_bytes()
    assert load_checked(f)['x'].sum()==499500 and not list(tmp_path.glob('*.tmp'))
    for n in (0,10,32,33,len(whole)//2,len(whole)-1):
        f.write_bytes(whole[:n])
        with pytest.warns(UserWarning, match='not whole'): assert load_checked(f) is None
    flipped = bytearray(whole); flipped[len(whole)//2] ^= 1; f.write_bytes(bytes(flipped))
    with pytest.warns(UserWarning, match='not whole'): assert Resumable(f).saved is None

def test_dying_while_writing_leaves_the_old_one(tmp_path, monkeypatch):
    f = tmp_path/'a.ckpt'; save_atomic(dict(x=1), f)
    def dies(fd): raise KeyboardInterrupt
    monkeypatch.setattr(os, 'fsync', dies)
    with pytest.raises(KeyboardInterrupt): save_atomic(dict(x=2), f)
    monkeypatch.undo()
    assert load_checked(f)==dict(x=1)
    save_atomic(dict(x=3), f); assert load_checked(f)==dict(x=3)

"Killed in the middle of an epoch; checkpoints that are not whole, or would run code; the same object again"
import errno, os, pickle, random, signal, subprocess, sys, threading
import numpy as np, pytest, torch
from ssd_fastai.all import *
from ssd_fastai.train.resume import as_plain, atomic_file, load_checked, random_state, save_atomic, set_random_state

script = '''
import os, signal, sys, warnings
warnings.simplefilter('ignore')
import torch
torch.set_num_threads(1)
from ssd_fastai.all import *
cells,out,how = Path(sys.argv[1]),Path(sys.argv[2]),sys.argv[3]
set_seed(5, reproducible=True)
train,valid = (read_coco(cells/f'{o}.json', cells/'images') for o in ('train','valid'))
dls = BBoxDataLoaders.from_annotations(train[:32], valid[:8], size=(64,96), bs=4, path=out)
learn = ssd_learner(dls, 'resnet10t', pretrained=False, strides=(4,8,16), precision='fp32', metrics=coco_metrics())
class Kill(Callback):
    order = 99
    def after_batch(self):
        if self.training and not self.learn.opt.frozen_idx and self.learn.epoch==1 and self.learn.iter==5:
            os.kill(os.getpid(), signal.SIGKILL)
learn.remove_cb(ProgressCallback)
cbs = [] if how=='plain' else [Resumable(out/'run.ckpt', every=4)]
if how=='kill': cbs.append(Kill())
with learn.no_logging(): learn.fine_tune(2, 3e-3, freeze_epochs=1, cbs=cbs)
losses = [float(o) for o in learn.recorder.losses]
torch.save(dict(model=learn.model.state_dict(), ap=learn.validate()[1:], losses=losses), out/f'{how}.pth')
'''

def test_kill_9_and_go_on(cells, tmp_path):
    def run(how):
        command = [sys.executable,'-W','ignore','-c',script,str(cells),str(tmp_path),how]
        return subprocess.run(command, capture_output=True, text=True)
    plain,killed = run('plain'),run('kill')
    assert plain.returncode==0, plain.stderr
    assert killed.returncode==-signal.SIGKILL and (tmp_path/'run.ckpt').exists() and not (tmp_path/'kill.pth').exists()
    again = run('resume')
    assert again.returncode==0, again.stderr
    assert 'Going on from run.ckpt: epoch 1 (counted from 0), 4 of its 8 batches are done' in again.stdout
    a,b = (torch.load(tmp_path/f'{o}.pth', weights_only=False) for o in ('plain','resume'))
    assert a['ap'][1]>0 and all(abs(x-y)<1e-3 for x,y in zip(a['ap'],b['ap']))
    assert a['losses']==pytest.approx(b['losses'], abs=1e-6)
    assert all(torch.allclose(v.float(),b['model'][k].float(),atol=1e-6) for k,v in a['model'].items())

# files

def test_half_written_is_never_loaded(tmp_path):
    f = tmp_path/'a.ckpt'
    save_atomic(dict(x=torch.arange(1000)), f)
    whole = f.read_bytes()
    assert load_checked(f)['x'].sum()==499500 and not list(tmp_path.glob('*.tmp'))
    for n in (0,10,32,33,len(whole)//2,len(whole)-1):
        f.write_bytes(whole[:n])
        with pytest.warns(UserWarning, match='not whole'): assert load_checked(f) is None
    flipped = bytearray(whole)
    flipped[len(whole)//2] ^= 1
    f.write_bytes(bytes(flipped))
    with pytest.warns(UserWarning, match='not whole'): assert Resumable(f).saved is None

def test_dying_while_writing_leaves_the_old_one(tmp_path, monkeypatch):
    f = tmp_path/'a.ckpt'
    save_atomic(dict(x=1), f)
    def dies(fd): raise KeyboardInterrupt
    monkeypatch.setattr(os, 'fsync', dies)
    with pytest.raises(KeyboardInterrupt): save_atomic(dict(x=2), f)
    monkeypatch.undo()
    assert load_checked(f)==dict(x=1) and [p.name for p in tmp_path.iterdir()]==['a.ckpt']
    save_atomic(dict(x=3), f)
    assert load_checked(f)==dict(x=3)

def test_what_kill_9_leaves_is_cleaned_up(tmp_path):
    code = f"""
import os, signal
from ssd_fastai.train.resume import atomic_file
with atomic_file({str(tmp_path/'a.ckpt')!r}) as tmp:
    tmp.write_text('half')
    os.kill(os.getpid(), signal.SIGKILL)"""
    assert subprocess.run([sys.executable,'-W','ignore','-c',code]).returncode==-signal.SIGKILL
    left, = tmp_path.iterdir()
    assert left.suffix=='.tmp'
    others = [tmp_path/n for n in ('a.ckpt.mine.tmp', 'b.ckpt.1-2.tmp', f'a.ckpt.{os.getpid()}-1.tmp')]
    for o in others: o.write_text('not ours to remove')
    Resumable(tmp_path/'a.ckpt')
    assert sorted(tmp_path.iterdir())==sorted(others)

def test_writers_at_the_same_time_do_not_meet(tmp_path):
    f,names = tmp_path/'a.ckpt',set()
    def write(i):
        for _ in range(20):
            with atomic_file(f) as tmp:
                names.add(tmp.name)
                tmp.write_text(str(i)*10_000)
    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(names)==80 and len(set(f.read_text()))==1 and [p.name for p in tmp_path.iterdir()]==['a.ckpt']

class Call:
    "A pickle that calls something when it is opened"
    def __init__(self, f, *args): self.f,self.args = f,args
    def __reduce__(self): return self.f,self.args

@pytest.mark.parametrize('kind', range(6))
def test_a_checkpoint_never_runs_code(tmp_path, kind):
    mark,f = tmp_path/'mark',tmp_path/'bad.ckpt'
    makes = f"__import__('os').mkdir({str(mark)!r})"
    bad = [Call(os.mkdir,str(mark)), Call(os.system,f'mkdir {mark}'), Call(eval,makes), Call(exec,makes),
           Call(open,str(mark),'w'), Call(subprocess.run,['mkdir',str(mark)])][kind]
    for o in (bad, dict(model=dict(w=torch.ones(2)), fits=[bad])):
        save_atomic(o, f)
        with pytest.raises(ValueError, match='bad.ckpt holds more than numbers'): Resumable(f)
    f.write_bytes(pickle.dumps(bad))
    with pytest.warns(UserWarning, match='not whole'): assert Resumable(f).saved is None
    assert not mark.exists()

def test_random_state_comes_back_from_a_file(tmp_path):
    def draw(): return random.random(),random.gauss(0,1),np.random.rand(),np.random.randn(),torch.rand(1).item()
    random.gauss(0,1)
    np.random.randn() # a second normal number is waiting
    save_atomic(random_state(), tmp_path/'r.ckpt')
    want = draw()
    set_random_state(load_checked(tmp_path/'r.ckpt'))
    assert draw()==want

def test_what_has_no_plain_form_is_refused():
    with pytest.raises(TypeError, match='cannot hold PosixPath|cannot hold WindowsPath'): as_plain(dict(a=[Path('x')]))

# trainings

class Dark(Exception): pass

class PowerFails(Callback):
    order = 95
    def __init__(self, epoch=1, batch=1, frozen=0): self.at = (epoch,batch,frozen)
    def after_batch(self):
        if self.training and self.at==(self.learn.epoch,self.learn.iter,self.learn.opt.frozen_idx): raise Dark('dark')

@pytest.fixture
def fresh(train, valid, tmp_path):
    def make(seed=42, lr=1e-3, n=16, **kwargs):
        set_seed(seed, reproducible=True)
        dls = BBoxDataLoaders.from_annotations(train[:n], valid[:4], size=64, bs=4, path=tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            learn = ssd_learner(dls, 'resnet10t', pretrained=False, precision='fp32', lr=lr, drop=.2,
                                metrics=coco_metrics(), **kwargs)
        learn.remove_cb(ProgressCallback)
        learn.logger = noop
        return learn
    return make

def same(a, b):
    for (k,v),w in zip(a.model.state_dict().items(), b.model.state_dict().values()): assert torch.equal(v,w), k
    assert [float(o) for o in a.recorder.losses]==[float(o) for o in b.recorder.losses]
    assert [list(v) for v in a.recorder.values][1:]==[list(v) for v in b.recorder.values][1:]
    assert list(a.final_record)==list(b.final_record) and a.recorder.iters==b.recorder.iters
    assert a.recorder.lrs==b.recorder.lrs

def dark(f, *args, **kwargs):
    with pytest.raises(Dark): f(*args, **kwargs)

def torch_adamw(params, **kwargs): return OptimWrapper(params, torch.optim.AdamW, **kwargs)

@pytest.mark.parametrize('kwargs', [{}, dict(opt_func=torch_adamw), dict(opt_func=SGD, cbs=GradientAccumulation(12))],
                         ids=['adam','torch','accumulated'])
def test_equal_to_the_last_bit(fresh, tmp_path, kwargs):
    plain = fresh(**kwargs)
    plain.fine_tune(2)
    dark(fresh(**kwargs).fine_tune, 2, cbs=[Resumable(tmp_path/'a.ckpt',every=1),PowerFails()])
    assert load_checked(tmp_path/'a.ckpt')['done'] in ([2] if not kwargs.get('cbs') else [1,2])
    again = fresh(**kwargs)
    again.fine_tune(2, cbs=Resumable(tmp_path/'a.ckpt'))
    same(plain, again)

def test_two_fits_with_one_object(fresh, tmp_path, capsys):
    def both(learn, cbs=(), **fails):
        learn.fit_one_cycle(1, 1e-3, cbs=list(cbs))
        learn.fit_one_cycle(2, 5e-4, cbs=[*cbs]+([PowerFails(**fails)] if fails else []))
        return learn
    plain = both(fresh())
    dark(both, fresh(), [Resumable(tmp_path/'a.ckpt',every=1)], epoch=1)
    capsys.readouterr()
    same(plain, both(fresh(), [Resumable(tmp_path/'a.ckpt',every=1)]))
    out = capsys.readouterr().out
    assert 'Fit 1 is complete in a.ckpt: skipped, with the weights of fit 2' in out
    assert 'Going on from a.ckpt: epoch 1' in out
    learn = both(fresh(), [Resumable(tmp_path/'a.ckpt')])
    assert 'Fit 2 is complete in a.ckpt: its weights are loaded, nothing is trained' in capsys.readouterr().out
    same(plain, learn)
    assert learn.recorder.hps==plain.recorder.hps and len(learn.recorder.hps['lr'])==8

def test_killed_between_two_fits(fresh, tmp_path):
    "The second fit begins with the random state and the optimizer that the first one left"
    plain = fresh()
    for _ in range(2): plain.fit(1)
    fresh().fit(1, cbs=Resumable(tmp_path/'a.ckpt'))
    again,cb = fresh(),Resumable(tmp_path/'a.ckpt')
    for _ in range(2): again.fit(1, cbs=cb)
    same(plain, again)

@pytest.mark.parametrize('freeze_epochs', [0,1])
def test_an_interrupted_fit_run_again(fresh, tmp_path, freeze_epochs):
    "The same object and learner: stopped, and the cell run once more"
    plain = fresh()
    plain.fine_tune(2, freeze_epochs=freeze_epochs)
    learn,cb = fresh(),Resumable(tmp_path/'a.ckpt', every=1)
    dark(learn.fine_tune, 2, freeze_epochs=freeze_epochs, cbs=[cb,PowerFails()])
    learn.fine_tune(2, freeze_epochs=freeze_epochs, cbs=cb)
    same(plain, learn)

def test_interrupted_before_the_first_checkpoint(fresh, tmp_path):
    plain = fresh()
    plain.fit(1)
    learn,cb = fresh(),Resumable(tmp_path/'a.ckpt', every=1000)
    dark(learn.fit, 1, cbs=[cb,PowerFails(epoch=0)])
    learn.fit(1, cbs=cb)
    same(plain, learn)

def test_another_fit_after_an_interrupted_one_is_told(fresh, tmp_path):
    learn,cb = fresh(),Resumable(tmp_path/'a.ckpt', every=1)
    dark(learn.fit, 2, 1e-3, cbs=[cb,PowerFails()])
    with pytest.raises(ValueError, match='was interrupted.*learning rate differ'): learn.fit(2, 1e-4, cbs=cb)
    learn.fit(2, 1e-3, cbs=cb)
    assert load_checked(tmp_path/'a.ckpt')['finished']

def test_what_is_no_fit_does_not_count(fresh, tmp_path):
    plain = fresh()
    plain.fine_tune(2)
    learn,cb,f = fresh(),Resumable(tmp_path/'a.ckpt', every=1),tmp_path/'a.ckpt'
    learn.add_cb(cb)
    learn.lr_find(num_it=6, show_plot=False)
    learn.validate()
    assert not f.exists() and cb.number==0
    learn = fresh()
    learn.add_cb(cb)
    dark(learn.fine_tune, 2, cbs=PowerFails())
    before = f.read_bytes()
    learn.lr_find(num_it=6, show_plot=False)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.lr_inflections(num_it=12, show=False)
    learn.validate()
    learn.show_results(1)
    assert f.read_bytes()==before and cb.number==1
    learn.fine_tune(2)
    same(plain, learn)
    done = f.read_bytes()
    learn.validate()
    assert f.read_bytes()==done

def test_changes_are_told(fresh, train, tmp_path):
    f = tmp_path/'a.ckpt'
    dark(fresh().fit_one_cycle, 2, 1e-3, cbs=[Resumable(f,every=1),PowerFails()])
    def told(what, learn, *args, **kwargs):
        before = f.read_bytes()
        with pytest.raises(ValueError, match=f'a.ckpt is from another training: {what} differ. Delete it'):
            learn.fit_one_cycle(*args, cbs=Resumable(f), **kwargs)
        assert f.read_bytes()==before
    told('learning rate', fresh(), 2, 2e-3)
    told('learning rate, momentum', fresh(), 2, 1e-3, pct_start=.5)
    told('momentum', fresh(), 2, 1e-3, moms=(.9,.8,.9))
    told('weight decay', fresh(), 2, 1e-3, wd=.1)
    told('epochs', fresh(), 3, 1e-3)
    told('photos, labels, default boxes', fresh(n=12), 2, 1e-3)
    frozen = fresh()
    frozen.freeze()
    told('frozen groups', frozen, 2, 1e-3)
    moved = fresh()
    moved.dls.train.dataset.items[0].boxes[0] += 1
    told('labels', moved, 2, 1e-3)
    moved.dls.train.dataset.items[0].boxes[0] -= 1

def test_a_full_disk_warns_and_training_goes_on(fresh, tmp_path, monkeypatch):
    plain = fresh()
    plain.fit(1)
    f = tmp_path/'a.ckpt'
    dark(fresh().fit, 1, cbs=[Resumable(f,every=1),PowerFails(epoch=0)])
    before = f.read_bytes()
    def full(fd): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    learn = fresh()
    with pytest.warns(UserWarning, match='a.ckpt could not be written .*No space left.*goes on'):
        learn.fit(1, cbs=Resumable(f,every=1))
    same(plain, learn)
    assert f.read_bytes()==before and not list(tmp_path.glob('*.tmp'))

def test_callbacks_that_remember(fresh, tmp_path):
    "The best epoch so far, and how long it has not been beaten, go on, too"
    def cbs(): return [SaveModelCallback(fname='best'), EarlyStoppingCallback(patience=9, min_delta=100)]
    plain,a = fresh(),cbs()
    plain.fit(3, cbs=a)
    dark(fresh().fit, 3, cbs=[*cbs(),Resumable(tmp_path/'a.ckpt',every=1),PowerFails(epoch=2)])
    again,b = fresh(),cbs()
    again.fit(3, cbs=[*b,Resumable(tmp_path/'a.ckpt')])
    same(plain, again)
    assert a[0].best==b[0].best and a[1].wait==b[1].wait==2
    skipped,c = fresh(),cbs()
    skipped.fit(3, cbs=[*c,Resumable(tmp_path/'a.ckpt')])
    same(plain, skipped)

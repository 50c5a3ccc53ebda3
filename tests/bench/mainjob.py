"""Time and AP of README's main job, `python -m ssd_fastai`: of this checkout, or of several in turn; and where the time
goes.

    python tests/bench/mainjob.py [rounds] [another checkout …]     whole runs, in turn, each in a process of its own
    python tests/bench/mainjob.py parts                             one run of this checkout, by what it does
    python tests/bench/mainjob.py choices [seeds] [data]            AP of ssd_train's epochs, batch and learning rate
                                                                    beside what they were

The first prints seconds by the clock, from the start of Python to its end, and what the job says of AP and AP50; then
the medians and their ratio to the first of the other checkouts. The painted photos are the same in all runs, and are
painted before the first. Seconds, of the clock as of the CPU, are only comparable if nothing else runs.
"""
import contextlib, io, os, re, statistics, subprocess, sys, tempfile, time
from pathlib import Path

here = Path(__file__).resolve().parents[2]

def job(root):
    "Seconds, AP and AP50 of the main job of a checkout"
    env = {**os.environ, 'PYTHONPATH':str(root), 'PYTHONWARNINGS':'ignore'}
    with tempfile.TemporaryDirectory() as out:
        cmd = [sys.executable,'-m','ssd_fastai','--out',out]
        start = time.perf_counter()
        r = subprocess.run(cmd, cwd=root, env=env, capture_output=True, text=True)
        t = time.perf_counter()-start
    m = re.search(r'AP (\d\.\d+)\s+AP50 (\d\.\d+)', r.stdout)
    if r.returncode or not m:
        raise SystemExit(f'{root}: the main job failed\n{r.stdout[-500:]}\n{r.stderr[-2000:]}')
    return t,*map(float,m.groups())

def summary(res, first):
    "A line for each checkout: its seconds beside those of the first"
    med = {o:statistics.median(t for t,*_ in r) for o,r in res.items()}
    for o,r in res.items():
        span = f'{min(r)[0]:.0f}-{max(r)[0]:.0f}'
        print(f'{o.name}: median {med[o]:.0f} s ({span}), {med[o]/med[first]:.3f} of {first.name}, '
              f'AP {r[-1][1]:.3f}, AP50 {r[-1][2]:.3f}')

def runs(rounds=3, *others):
    from ssd_fastai.data.sample import make_cells
    make_cells()
    roots = [*map(Path,others),here]
    res = {o:[] for o in roots}
    for i in range(rounds):
        for o in (roots if i%2==0 else roots[::-1]):
            t,ap,ap50 = job(o.resolve())
            res[o].append((t,ap,ap50))
            print(f'round {i+1}  {o.name}: {t:.0f} s, AP {ap:.3f}, AP50 {ap50:.3f}', flush=True)
    summary(res, roots[0])

def clock(spent):
    "A callback that adds up the time between the events of the training"
    from fastai.callback.core import Callback
    ends,bar = 'start and end of fit and of epochs','after the batch: bar, recorder'
    class Clock(Callback):
        order = 10**6
        def _to(self, k):
            now = time.perf_counter()
            spent[k] = spent.get(k,0)+now-self.t
            self.t = now
        def _step(self, k): self._to(k if self.training else 'validation')
        def before_fit(self): self.t = time.perf_counter()
        def before_train(self): self._to(ends)
        def before_batch(self): self._step('wait for photos, and batch_tfms')
        def after_pred(self): self._step('forward')
        def after_loss(self): self._step('loss')
        def before_step(self): self._to('backward')
        def after_step(self): self._to('optimizer')
        def after_batch(self): self._step(bar)
        def after_train(self): self._to(bar)
        def after_validate(self): self._to('validation')
        def after_fit(self): self._to(ends)
    return Clock

def parts():
    start = time.perf_counter()
    from fastai.learner import defaults
    from ssd_fastai.use.cli import ssd_train
    spent = dict(imports=time.perf_counter()-start)
    defaults.callbacks.append(clock(spent))
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()): ssd_train(out=out)
    total = time.perf_counter()-start
    spent['before and after the training'] = total-sum(spent.values())
    for k,v in sorted(spent.items(), key=lambda o: -o[1]): print(f'{v:7.1f} s  {v/total:6.1%}  {k}')
    print(f'{total:7.1f} s          all')

def choices(seeds=3, data=None):
    from ssd_fastai.use.cli import ssd_train
    for epochs,bs,lr in ((6,8,1e-3),(4,4,2e-3)):
        aps,start = [],time.process_time()
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
                learn = ssd_train(data, out=out, epochs=epochs, bs=bs, lr=lr, seed=42+seed)
            aps.append(learn.final_record[-2:])
        cpu = (time.process_time()-start)/seeds
        cells = [f'{n} {statistics.mean(v):.3f} ({min(v):.3f}-{max(v):.3f})' for n,v in zip(('AP','AP50'),zip(*aps))]
        print(f'{epochs} epochs, batch {bs}, learning rate {lr:.0e}: {"  ".join(cells)}, {cpu:.0f} s of CPU a run',
              flush=True)

if __name__=='__main__':
    if sys.argv[1:]==['parts']: parts()
    elif sys.argv[1:2]==['choices']: choices(*map(int,sys.argv[2:3]), *sys.argv[3:4])
    else: runs(*map(int,sys.argv[1:2]), *sys.argv[2:])

"What the benches share: time of several functions in turn, a quiet training, a table of means"
import statistics, time
import torch

def wait(device='cpu'):
    "Until a GPU has done what it was asked"
    if torch.device(device).type=='cuda': torch.cuda.synchronize()

def seconds(f, device='cpu'):
    "(seconds, result) of a call"
    wait(device)
    start = time.perf_counter()
    res = f()
    wait(device)
    return time.perf_counter()-start,res

def medians(times): return {k:statistics.median(v) for k,v in times.items()}

def train_quietly(learn, fit, *args, **kwargs):
    "`learn.fit(…)`, or another method of that kind, without its bar and table"
    with learn.no_bar(),learn.no_logging(): getattr(learn, fit)(*args, **kwargs)
    return learn

def rounded(row): return {k:float(round(v,3)) if isinstance(v,float) else v for k,v in row.items()}

def spread(df, by, cols=('AP','AP50')):
    "Mean, smallest and largest value of some columns"
    g = df.groupby(by, sort=False)[list(cols)].agg(['mean','min','max'])
    g.columns = [' '.join(o) for o in g.columns]
    return g.round(3).to_string()

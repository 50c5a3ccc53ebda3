"""bf16 against fp32: time of a training step of each model, and AP of short trainings with both, three seeds.

    python tests/bench/precision.py [threads] [epochs] [seeds] [times: 1 or 0]

On a CPU with torch's autocast, as `precision='bf16'` does. AP: 32 painted smears at 64x96, a small body from scratch, the epochs given
(0: only times; with 0 for times only AP, since emulated bf16 takes minutes for a large network). On a GPU also fp16, at batch 32.
"""
import sys, time, warnings
warnings.filterwarnings('ignore')
import matplotlib; matplotlib.use('Agg')
from ssd_fastai.all import *
from ssd_fastai.train.precision import cpu_has_bf16, time_precisions
from photos import sample

def loaders(size, bs, n=32):
    train,valid = sample()
    return BBoxDataLoaders.from_annotations(train[:n], valid[:24], size=size, bs=bs)

def times(threads):
    models = [('SSDlite320 MobileNetV3',ssdlite320_mobilenet_v3_large,320,{}), ('resnet10t, 112x144, strides 4 8 16','resnet10t',(112,144),dict(strides=(4,8,16))), ('ResNet-18, 192x256',resnet18,(192,256),{}), ('SSD300 VGG16',ssd300_vgg16,300,{})]
    for name,arch,size,kw in models:
        with warnings.catch_warnings(): warnings.simplefilter('ignore'); learn = ssd_learner(loaders(size,2), arch, pretrained=False, precision='fp32', **kw)
        t = time_precisions(learn.model, learn.model.size, bs=2, n=2)
        print(f'{name}: fp32 {1000*t["fp32"]:.0f} ms, bf16 {1000*t["bf16"]:.0f} ms for a step of 2 photos: bf16 takes {t["bf16"]/t["fp32"]:.2f} times as long ({threads} thread(s))', flush=True)

def cuda_times():
    from statistics import median
    for name,arch,size in (('SSDlite320 MobileNetV3',ssdlite320_mobilenet_v3_large,320),('SSD300 VGG16',ssd300_vgg16,300),('ResNet-34, 320',resnet34,320)):
        for p in ('fp32','bf16','fp16'):
            learn = ssd_learner(loaders(size,32), arch, pretrained=False, precision=p); learn.remove_cb(ProgressCallback); ts = []
            with learn.no_logging():
                for _ in range(4): torch.cuda.synchronize(); t = time.perf_counter(); learn.fit(1,1e-4); torch.cuda.synchronize(); ts.append(time.perf_counter()-t)
            print(f'{name}, {p}: an epoch of one batch of 32 {1000*median(ts[1:]):.0f} ms', flush=True)

def main(threads:int=1, epochs:int=14, seeds:int=3, clock:int=1):
    torch.set_num_threads(threads)
    print(f'bf16 in hardware: {cpu_has_bf16()}; torch {torch.__version__}')
    if clock: cuda_times() if torch.cuda.is_available() else times(threads)
    rows = []
    for seed in range(seeds if epochs else 0):
        for p in ('fp32','bf16'):
            set_seed(seed, reproducible=True)
            with warnings.catch_warnings(): warnings.simplefilter('ignore'); learn = ssd_learner(loaders((64,96),8), 'resnet10t', pretrained=False, strides=(4,8), width=32, precision=p)
            t = time.perf_counter()
            with learn.no_bar(),learn.no_logging(): learn.fine_tune(epochs, 2e-3)
            ap = learn.ap_per_class(); rows.append((p,seed,ap['AP'].mean(),ap['AP50'].mean())); print(*rows[-1], f'{time.perf_counter()-t:.0f} s', flush=True)
    if rows: print(pd.DataFrame(rows,columns=['precision','seed','AP','AP50']).groupby('precision')[['AP','AP50']].agg(['mean','min','max']).round(3).to_string())

if __name__=='__main__': main(*map(int,sys.argv[1:]))

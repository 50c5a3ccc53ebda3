"""bf16 against fp32: time of a training step of each model, and AP of short trainings with both, three seeds.

    python tests/bench/precision.py [threads] [epochs] [seeds] [times: 1 or 0]

On a CPU with torch's autocast, as `precision='bf16'` does. AP: 32 painted smears at 64x96, a small body from scratch,
the epochs given (0: only times; with 0 for times only AP, since emulated bf16 takes minutes for a large network). On a
GPU also fp16, at batch 32.
"""
import sys, warnings
from statistics import median
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
from ssd_fastai.all import *
from ssd_fastai.train.precision import cpu_has_bf16, time_precisions
from clock import seconds, spread, train_quietly
from photos import sample

cpu_models = [('SSDlite320 MobileNetV3', ssdlite320_mobilenet_v3_large, 320, {}),
              ('resnet10t, 112x144, strides 4 8 16', 'resnet10t', (112,144), dict(strides=(4,8,16))),
              ('ResNet-18, 192x256', resnet18, (192,256), {}),
              ('SSD300 VGG16', ssd300_vgg16, 300, {})]
gpu_models = [('SSDlite320 MobileNetV3', ssdlite320_mobilenet_v3_large, 320),
              ('SSD300 VGG16', ssd300_vgg16, 300),
              ('ResNet-34, 320', resnet34, 320)]

def loaders(size, bs, n=32):
    train,valid = sample()
    return BBoxDataLoaders.from_annotations(train[:n], valid[:24], size=size, bs=bs)

def learner(dls, arch, **kwargs):
    "Without its warnings"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return ssd_learner(dls, arch, pretrained=False, **kwargs)

def cpu_times(threads):
    for name,arch,size,kw in cpu_models:
        model = learner(loaders(size,2), arch, precision='fp32', **kw).model
        t = time_precisions(model, model.size, bs=2, n=2)
        fp32,bf16 = 1000*t['fp32'],1000*t['bf16']
        print(f'{name}: fp32 {fp32:.0f} ms, bf16 {bf16:.0f} ms for a step of 2 photos: '
              f'bf16 takes {bf16/fp32:.2f} times as long ({threads} thread(s))', flush=True)

def cuda_times():
    for name,arch,size in gpu_models:
        for p in ('fp32','bf16','fp16'):
            learn = learner(loaders(size,32), arch, precision=p)
            ts = [seconds(lambda: train_quietly(learn, 'fit', 1, 1e-4), 'cuda')[0] for _ in range(4)]
            print(f'{name}, {p}: an epoch of one batch of 32 {1000*median(ts[1:]):.0f} ms', flush=True)

def score(seed, p, epochs):
    "AP and AP50 of a short training"
    set_seed(seed, reproducible=True)
    learn = learner(loaders((64,96),8), 'resnet10t', strides=(4,8), width=32, precision=p)
    ap = train_quietly(learn, 'fine_tune', epochs, 2e-3).ap_per_class()
    return ap['AP'].mean(),ap['AP50'].mean()

def scores(epochs, seeds):
    rows = []
    for seed in range(seeds):
        for p in ('fp32','bf16'):
            t,ap = seconds(lambda: score(seed, p, epochs))
            rows.append((p,seed,*ap))
            print(*rows[-1], f'{t:.0f} s', flush=True)
    print(spread(pd.DataFrame(rows, columns=['precision','seed','AP','AP50']), 'precision'))

def main(threads:int=1, epochs:int=14, seeds:int=3, clock:int=1):
    torch.set_num_threads(threads)
    print(f'bf16 in hardware: {cpu_has_bf16()}; torch {torch.__version__}')
    if clock and torch.cuda.is_available(): cuda_times()
    elif clock: cpu_times(threads)
    if epochs: scores(epochs, seeds)

if __name__=='__main__': main(*map(int,sys.argv[1:]))

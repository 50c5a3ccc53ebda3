"""Time of a training step: the bare network, our loss in a plain loop, the Learner, and torchvision's model, in one
run, in turn.

    python tests/bench/step.py [rounds] [steps in a round] [threads] [ssdlite,ssd300,resnet18]

floor: forward, the sum of the outputs as a loss, backward, optimizer. plain: the same network with `SSDLoss`, in a
plain PyTorch loop. Learner: the same through `ssd_learner(…).fit`. torchvision: its own model of the same name, with
its own loss. The same batch, already on the device and of the right size; AdamW of PyTorch; fp32, channels_last in all
of them. Painted smears, three classes. `PreciseBatchNorm`, which works after an epoch and not in a step, is left out.
SSD300 at batch 4, SSDlite at batch 8, as well as a ResNet-18 SSD at 192x256, which torchvision does not have. On a GPU
at batch 32, bf16 too.
"""
import sys, warnings
warnings.filterwarnings('ignore')
import torch
from fastai.optimizer import OptimWrapper
from torchvision.models import detection as tv
from torchvision.models.detection.image_list import ImageList
from ssd_fastai.all import *
from ssd_fastai.data.boxes import batch_boxes
from clock import medians, seconds, train_quietly
from photos import sample

class Same:
    "A loader that gives the same batch again and again"
    def __init__(self, dl, batch, n): self.dl,self.batch,self.n = dl,batch,n
    def __iter__(self): return iter([self.batch]*self.n)
    def __len__(self): return self.n
    def __getattr__(self, k): return getattr(self.dl,k)

class AsIs(nn.Module):
    "Instead of torchvision's resizing: the batch as it is"
    def __init__(self, x):
        super().__init__()
        self.x = ImageList(x.as_subclass(Tensor), [tuple(x.shape[-2:])]*len(x))
    def forward(self, images, objects): return self.x,objects

class NoValid(Callback):
    def before_validate(self): raise CancelValidException()

adamw = partial(OptimWrapper, opt=torch.optim.AdamW)
last = dict(memory_format=torch.channels_last)

def cast(x, amp): return torch.autocast(x.device.type, torch.bfloat16, enabled=amp)

def loop(step, model, n):
    "`n` steps of plain PyTorch; `step` gives the loss"
    opt = torch.optim.AdamW(model.parameters(), 1e-4)
    def run():
        for _ in range(n):
            step().backward()
            opt.step()
            opt.zero_grad()
    return run

def our_loop(model, x, loss, n, amp):
    model.to(x.device, **last).train()
    def step():
        with cast(x, amp): out = model(x)
        return loss(out)
    return loop(step, model, n)

def their_loop(arch, x, y, n_classes, n, amp):
    m = arch(weights=None, weights_backbone=None, num_classes=n_classes+1).to(x.device, **last).train()
    m.transform = AsIs(x)
    h,w = x.shape[-2:]
    box,label = batch_boxes(y[0])*x.new_tensor([w,h,w,h]).as_subclass(Tensor),y[1].as_subclass(Tensor)
    objs = [dict(boxes=b[l>0],labels=l[l>0]) for b,l in zip(box,label)]
    def step():
        with cast(x, amp): return sum(m([*x.as_subclass(Tensor)],objs).values())
    return loop(step, m, n)

def variants(arch, theirs, size, bs, n, amp):
    "Functions of `n` steps, and the device"
    train,valid = sample()
    dls = BBoxDataLoaders.from_annotations(train[:64], valid[:bs], size=size, bs=bs, item_tfms=[], batch_tfms=[])
    def new(): return ssd_learner(dls, arch, pretrained=False, opt_func=adamw, precision='bf16' if amp else 'fp32')
    learn,plain,bare = new(),new(),new()
    x,*y = (b.contiguous(**last) if b.ndim==4 else b for b in learn.dls.train.one_batch())
    learn.dls = DataLoaders(*[Same(learn.dls.train,(x,*y),k) for k in (n,1)])
    learn.add_cb(NoValid())
    learn.remove_cbs([ProgressCallback,PreciseBatchNorm])
    plain.loss_func.to(x.device)
    def total(out): return out[0].float().mean()+out[1].float().mean()
    def ssd_loss(out): return plain.loss_func(tuple(t.float() for t in out),*y)
    fs = dict(floor=our_loop(bare.model, x, total, n, amp), plain=our_loop(plain.model, x, ssd_loss, n, amp),
              Learner=lambda: train_quietly(learn, 'fit', 1, 1e-4))
    if theirs: fs['torchvision'] = their_loop(theirs, x, y, len(dls.vocab), n, amp)
    return fs,x.device.type

def measure(fs, dev, rounds, n):
    "Seconds for a step"
    times = {k:[] for k in fs}
    for i in range(rounds+1):
        for k,f in fs.items():
            t,_ = seconds(f, dev)
            if i: times[k].append(t/n) # the first warms up
    return medians(times)

v3 = 'ssdlite320_mobilenet_v3_large'
models = dict(ssdlite=('SSDlite320 MobileNetV3', ssdlite320_mobilenet_v3_large, getattr(tv,v3), 320, 8),
              ssd300=('SSD300 VGG16', ssd300_vgg16, tv.ssd300_vgg16, 300, 4),
              resnet18=('ResNet-18, 192x256', resnet18, None, (192,256), 8))

def main(rounds:int=5, n:int=4, threads:int=1, names:str=','.join(models)):
    torch.set_num_threads(threads)
    gpu = torch.cuda.is_available()
    for name,arch,theirs,size,bs in map(models.get, names.split(',')):
        bs = 32 if gpu else bs
        for amp in ([False,True] if gpu else [False]):
            fs,dev = variants(arch, theirs, size, bs, n, amp)
            med = measure(fs, dev, rounds, n)
            floor = med.pop('floor')
            cells = ', '.join(f'{k} {v/floor:.3f}' for k,v in med.items())
            print(f'{name}, batch {bs}, {dev}, {"bf16" if amp else "fp32"}, {threads} thread(s), '
                  f'torch {torch.__version__}: floor {1000*floor:.0f} ms; {cells} of the floor', flush=True)

if __name__=='__main__': main(*map(int,sys.argv[1:4]), *sys.argv[4:5])

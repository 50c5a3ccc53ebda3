"""Time of a training step: the bare network, our loss in a plain loop, the Learner, and torchvision's model, in one run, in turn.

    python tests/bench/step.py [rounds] [steps in a round] [threads] [ssdlite,ssd300,resnet18]

floor: forward, the sum of the outputs as a loss, backward, optimizer. plain: the same network with `SSDLoss`, in a plain PyTorch loop. Learner: the same
through `ssd_learner(…).fit`. torchvision: its own model of the same name, with its own loss. The same batch, already on the device and of the
right size; AdamW of PyTorch; fp32, channels_last in all of them. Painted smears, three classes. `PreciseBatchNorm`, which
works after an epoch and not in a step, is left out. SSD300 at batch 4, SSDlite at batch 8, as
well as a ResNet-18 SSD at 192x256, which torchvision does not have. On a GPU at batch 32, bf16 too.
"""
import statistics, sys, time, warnings
warnings.filterwarnings('ignore')
import torch
from fastai.optimizer import OptimWrapper
from torchvision.models import detection as tv
from torchvision.models.detection.image_list import ImageList
from ssd_fastai.all import *
from ssd_fastai.data.boxes import batch_boxes
from photos import sample

class Same:
    "A loader that gives the same batch again and again"
    def __init__(self, dl, batch, n): self.dl,self.batch,self.n = dl,batch,n
    def __iter__(self): return iter([self.batch]*self.n)
    def __len__(self): return self.n
    def __getattr__(self, k): return getattr(self.dl,k)

class AsIs(nn.Module):
    "Instead of torchvision's resizing: the batch as it is"
    def __init__(self, x): super().__init__(); self.x = ImageList(x.as_subclass(Tensor),[tuple(x.shape[-2:])]*len(x))
    def forward(self, images, objects): return self.x,objects

class NoValid(Callback):
    def before_validate(self): raise CancelValidException()

adamw = partial(OptimWrapper, opt=torch.optim.AdamW)

def variants(arch, theirs, size, bs, n, amp):
    train,valid = sample()
    dls = BBoxDataLoaders.from_annotations(train[:64], valid[:bs], size=size, bs=bs, item_tfms=[], batch_tfms=[])
    def new(): return ssd_learner(dls, arch, pretrained=False, opt_func=adamw, precision='bf16' if amp else 'fp32')
    learn,plain,bare = new(),new(),new()
    dls = learn.dls; batch = dls.train.one_batch(); x,*y = (b.contiguous(memory_format=torch.channels_last) if b.ndim==4 else b for b in batch)
    dev = x.device.type; cast = lambda: torch.autocast(dev, torch.bfloat16, enabled=amp)
    learn.dls = DataLoaders(Same(dls.train,(x,*y),n),Same(dls.train,(x,*y),1)); learn.add_cb(NoValid()); learn.remove_cbs([ProgressCallback,PreciseBatchNorm])
    def loop(model, loss):
        opt = torch.optim.AdamW(model.parameters(),1e-4); model.to(x.device,memory_format=torch.channels_last).train()
        def run():
            for _ in range(n):
                with cast(): out = model(x)
                l = loss(out); l.backward(); opt.step(); opt.zero_grad()
        return run
    plain.loss_func.to(x.device)
    fs = dict(floor=loop(bare.model,lambda o: o[0].float().mean()+o[1].float().mean()), plain=loop(plain.model,lambda o: plain.loss_func(tuple(t.float() for t in o),*y)))
    def fit():
        with learn.no_bar(),learn.no_logging(): learn.fit(1,1e-4)
    fs['Learner'] = fit
    if theirs:
        m = theirs(weights=None,weights_backbone=None,num_classes=len(dls.vocab)+1).to(x.device,memory_format=torch.channels_last).train()
        h,w = x.shape[-2:]; box,label = batch_boxes(y[0]),y[1].as_subclass(Tensor)
        objs = [dict(boxes=b[l>0]*b.new_tensor([w,h,w,h]),labels=l[l>0]) for b,l in zip(box,label)]; m.transform = AsIs(x)
        opt = torch.optim.AdamW(m.parameters(),1e-4)
        def theirs_run():
            for _ in range(n):
                with cast(): l = sum(m([*x.as_subclass(Tensor)],objs).values())
                l.backward(); opt.step(); opt.zero_grad()
        fs['torchvision'] = theirs_run
    return fs,dev

models = dict(ssdlite=('SSDlite320 MobileNetV3',ssdlite320_mobilenet_v3_large,tv.ssdlite320_mobilenet_v3_large,320,8), ssd300=('SSD300 VGG16',ssd300_vgg16,tv.ssd300_vgg16,300,4), resnet18=('ResNet-18, 192x256',resnet18,None,(192,256),8))

def main(rounds:int=5, n:int=4, threads:int=1, names:str=','.join(models)):
    torch.set_num_threads(threads)
    gpu = torch.cuda.is_available()
    for name,arch,theirs,size,bs in map(models.get,names.split(',')):
        bs = 32 if gpu else bs
        for amp in ([False,True] if gpu else [False]):
            fs,dev = variants(arch,theirs,size,bs,n,amp); times = {k:[] for k in fs}
            for i in range(rounds+1):
                for k,f in fs.items():
                    if gpu: torch.cuda.synchronize()
                    t = time.perf_counter(); f()
                    if gpu: torch.cuda.synchronize()
                    if i: times[k].append((time.perf_counter()-t)/n)
            med = {k:statistics.median(v) for k,v in times.items()}
            print(f'{name}, batch {bs}, {dev}, {"bf16" if amp else "fp32"}, {threads} thread(s), torch {torch.__version__}: floor {1000*med["floor"]:.0f} ms; '+', '.join(f'{k} {v/med["floor"]:.3f}' for k,v in med.items() if k!='floor')+' of the floor', flush=True)

if __name__=='__main__': main(*map(int,sys.argv[1:4]), *sys.argv[4:5])

"""Time of boxes + matching + loss (forward and backward), ours against torchvision's, on one CPU thread in one run, in turn.

    python tests/bench/loss.py [rounds]

torchvision: default boxes generated, matching photo by photo, `SSD.compute_loss`, as in one step of its SSD300. Ours: `SSDLoss`, whose boxes are a
buffer, with torchvision's matching and no minimum of negatives, so that the result is the same (asserted), and with the library's own. Batch 8,
8732 default boxes, 91 scores as on COCO and 4 as on blood cells. On a GPU also the padded path, at batch 32.
"""
import statistics, sys, time
import torch
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from ssd_fastai.ssd.anchors import published_boxes
from ssd_fastai.ssd.loss import SSDLoss
from ssd_fastai.ssd.loss_gpu import PaddedSSDLoss

def scene(B, n, C, g, device):
    lo = torch.rand(B,n,2,generator=g)*.85; b = torch.cat([lo,(lo+.02+.13*torch.rand(B,n,2,generator=g)).clamp(max=1)],-1)
    return b.to(device),torch.randint(1,C,(B,n),generator=g).to(device),*(torch.randn(B,8732,c,generator=g).to(device).requires_grad_() for c in (C,4))

def main(rounds=15):
    torch.set_num_threads(1); g = torch.Generator().manual_seed(0)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    tv = ssd300_vgg16(weights=None,weights_backbone=None).to(device); maps = [torch.zeros(1,1,k,k,device=device) for k in (38,19,10,5,3,1)]
    default = published_boxes('ssd300_coco').boxes.to(device)
    losses = {'ours, its rules':SSDLoss(default,like='torchvision'), 'ours':SSDLoss(default)}
    if device=='cuda': losses['ours, padded'] = PaddedSSDLoss(default,ignore=False)
    def torchvision(b, l, s, o):
        anchors = tv.anchor_generator(ImageList(torch.zeros(len(b),3,300,300,device=device),[(300,300)]*len(b)),maps)
        objs = [dict(boxes=x*300,labels=y) for x,y in zip(b,l)]
        own = [tv.proposal_matcher(box_iou(t['boxes'],a)) for t,a in zip(objs,anchors)]
        out = tv.compute_loss(objs,dict(bbox_regression=o,cls_logits=s),anchors,own)
        return out['bbox_regression']+out['classification']
    print(f'{device}, 1 thread, torch {torch.__version__}, milliseconds for one batch, forward and backward; median of {rounds}')
    for B,C,n in [(8,c,n) for c in (91,4) for n in (3,30,200)]+([(32,91,30)] if device=='cuda' else []):
        b,l,s,o = scene(B,n,C,g,device); fs = {'torchvision':lambda: torchvision(b,l,s,o), **{k:(lambda f=f: f((s,o),b*2-1,l)) for k,f in losses.items()}}
        a,c = fs['torchvision'](),fs['ours, its rules'](); assert torch.allclose(a,c,rtol=1e-3), (a,c)
        times = {k:[] for k in fs}
        for i in range(rounds+2):
            for k,f in fs.items():
                if device=='cuda': torch.cuda.synchronize()
                t = time.perf_counter(); f().backward()
                if device=='cuda': torch.cuda.synchronize()
                if i>1: times[k].append(1000*(time.perf_counter()-t))
                s.grad = o.grad = None
        med = {k:statistics.median(v) for k,v in times.items()}
        print(f'batch {B}, {C} scores, {n:3} objects: '+', '.join(f'{k} {v:.1f}'+('' if k=='torchvision' else f' ({med["torchvision"]/v:.2f}x)') for k,v in med.items()), flush=True)

if __name__=='__main__': main(*map(int,sys.argv[1:]))

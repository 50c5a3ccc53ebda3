"""Time of boxes + matching + loss (forward and backward), ours against torchvision's, on one CPU thread in one run, in
turn.

    python tests/bench/loss.py [rounds]

torchvision: default boxes generated, matching photo by photo, `SSD.compute_loss`, as in one step of its SSD300. Ours:
`SSDLoss`, whose boxes are a buffer, with torchvision's matching and no minimum of negatives, so that the result is the
same (asserted), and with the library's own. Batch 8, 8732 default boxes, 91 scores as on COCO and 4 as on blood cells.
On a GPU also the padded path, at batch 32.
"""
import sys
import torch
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from ssd_fastai.ssd.anchors import published_boxes
from ssd_fastai.ssd.loss import SSDLoss
from ssd_fastai.ssd.loss_gpu import PaddedSSDLoss
from clock import medians, seconds

device = 'cuda' if torch.cuda.is_available() else 'cpu'

def scene(B, n, C, g):
    "Boxes 0…1, labels, scores and offsets of a batch with `n` objects on each photo"
    lo = torch.rand(B,n,2,generator=g)*.85
    hi = (lo+.02+.13*torch.rand(B,n,2,generator=g)).clamp(max=1)
    label = torch.randint(1,C,(B,n),generator=g)
    out = [torch.randn(B,8732,c,generator=g).to(device).requires_grad_() for c in (C,4)]
    return torch.cat([lo,hi],-1).to(device),label.to(device),*out

def theirs():
    "torchvision's loss as a function of boxes, labels, scores and offsets"
    tv = ssd300_vgg16(weights=None, weights_backbone=None).to(device)
    maps = [torch.zeros(1,1,k,k,device=device) for k in (38,19,10,5,3,1)]
    def f(b, l, s, o):
        photos = ImageList(torch.zeros(len(b),3,300,300,device=device), [(300,300)]*len(b))
        anchors = tv.anchor_generator(photos, maps)
        objs = [dict(boxes=x*300,labels=y) for x,y in zip(b,l)]
        matched = [tv.proposal_matcher(box_iou(t['boxes'],a)) for t,a in zip(objs,anchors)]
        out = tv.compute_loss(objs, dict(bbox_regression=o,cls_logits=s), anchors, matched)
        return out['bbox_regression']+out['classification']
    return f

def losses():
    "Functions of boxes, labels, scores and offsets"
    default = published_boxes('ssd300_coco').boxes.to(device)
    ours = {'ours, its rules':SSDLoss(default, like='torchvision'), 'ours':SSDLoss(default)}
    if device=='cuda': ours['ours, padded'] = PaddedSSDLoss(default, ignore=False)
    return {'torchvision':theirs(), **{k:lambda b,l,s,o,f=f: f((s,o), b*2-1, l) for k,f in ours.items()}}

def measure(fs, b, l, s, o, rounds):
    "Milliseconds of forward and backward"
    times = {k:[] for k in fs}
    for i in range(rounds+2):
        for k,f in fs.items():
            t,_ = seconds(lambda: f(b,l,s,o).backward(), device)
            if i>1: times[k].append(1000*t) # the first two warm up
            s.grad = o.grad = None
    return medians(times)

def main(rounds=15):
    torch.set_num_threads(1)
    g,fs = torch.Generator().manual_seed(0),losses()
    print(f'{device}, 1 thread, torch {torch.__version__}, milliseconds for one batch, forward and backward; '
          f'median of {rounds}')
    for B,C,n in [(8,c,n) for c in (91,4) for n in (3,30,200)]+([(32,91,30)] if device=='cuda' else []):
        x = scene(B, n, C, g)
        a,c = fs['torchvision'](*x),fs['ours, its rules'](*x)
        assert torch.allclose(a,c,rtol=1e-3), (a,c)
        med = measure(fs, *x, rounds)
        cells = [f'{k} {v:.1f} ({med["torchvision"]/v:.2f}x)' for k,v in med.items()]
        print(f'batch {B}, {C} scores, {n:3} objects: {", ".join(cells)}', flush=True)

if __name__=='__main__': main(*map(int,sys.argv[1:]))

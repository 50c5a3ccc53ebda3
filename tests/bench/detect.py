"""Time of post-processing (scores and offsets to detections), ours against torchvision's, on one CPU thread in one
run, in turn.

    python tests/bench/detect.py [rounds]

SSD300's 8732 default boxes, batch 4. sparse: a trained network, sure of the background but for five objects in each
photo. dense: an untrained one, where everything is a candidate. 91 scores as on COCO, 4 as on blood cells. The results
are compared. With a GPU also there.
"""
import sys
import torch
from torchvision.models.detection import ssd300_vgg16 as tv_ssd300
from torchvision.ops import box_iou
from ssd_fastai.data.boxes import BoxCoder
from ssd_fastai.ssd.anchors import published_boxes
from ssd_fastai.ssd.detect import detect
from clock import medians, seconds

default,coder = published_boxes('ssd300_coco').boxes,BoxCoder()
tv = tv_ssd300(weights=None, weights_backbone=None)
sizes = [(300,300)]*4

def outputs(kind, C, g):
    "Scores and offsets of four photos"
    s,o = torch.randn(4,len(default),C,generator=g)*.3,torch.randn(4,len(default),4,generator=g)*.3
    if kind=='dense': return s,o
    s[...,0] += 8
    for b in range(4):
        for j in torch.randint(len(default),(5,),generator=g).tolist():
            near = box_iou(default[j:j+1],default)[0]>.4
            c = int(torch.randint(1,C,(1,),generator=g))
            s[b,near,c] += 8+torch.randn(int(near.sum()),generator=g)
    return s,o

def ways(s, o):
    "Both functions on the same outputs"
    at = default.to(s.device)
    vocab = list(range(s.shape[-1]-1))
    anchors = [at*300]*4
    return dict(torchvision=lambda: tv.postprocess_detections(dict(bbox_regression=o,cls_logits=s), anchors, sizes),
                ours=lambda: detect((s,o), at, coder, sizes, vocab))

def check(theirs, ours):
    for a,b in zip(theirs, ours):
        assert len(a['scores'])==len(b) and torch.allclose(a['scores'].cpu(),b.scores,atol=1e-5)

def measure(kind, C, device, rounds, g):
    "Milliseconds for a photo, and the number of detections on it"
    times = dict(torchvision=[], ours=[])
    for i in range(rounds+2):
        fs = ways(*(x.to(device) for x in outputs(kind, C, g)))
        res = {k:seconds(f, device) for k,f in fs.items()}
        check(res['torchvision'][1], res['ours'][1])
        if i>1: # the first two warm up
            for k,(t,_) in res.items(): times[k].append(250*t)
    return medians(times),sum(map(len,res['ours'][1]))/4

def main(rounds:int=15):
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    for device in ['cpu']+(['cuda'] if torch.cuda.is_available() else []):
        print(f'{device}, 1 thread, torch {torch.__version__}, milliseconds for a photo; median of {rounds}')
        for kind,C in ((k,c) for c in (91,4) for k in ('sparse','dense')):
            med,n = measure(kind, C, device, rounds, g)
            print(f'{C:2} scores, {kind:6}: torchvision {med["torchvision"]:6.2f}, ours {med["ours"]:6.2f} '
                  f'({med["torchvision"]/med["ours"]:.2f}x), {n:.0f} detections', flush=True)

if __name__=='__main__': main(*map(int,sys.argv[1:]))

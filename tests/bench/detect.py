"""Time of post-processing (scores and offsets to detections), ours against torchvision's, on one CPU thread in one run, in turn.

    python tests/bench/detect.py [rounds]

SSD300's 8732 default boxes, batch 4. sparse: a trained network, sure of the background but for five objects in each photo. dense: an untrained
one, where everything is a candidate. 91 scores as on COCO, 4 as on blood cells. The results are compared. With a GPU also there.
"""
import statistics, sys, time
import torch
from torchvision.models.detection import ssd300_vgg16 as tv_ssd300
from torchvision.ops import box_iou
from ssd_fastai.data.boxes import BoxCoder
from ssd_fastai.ssd.anchors import published_boxes
from ssd_fastai.ssd.detect import detect

def outputs(kind, C, g, default, B=4):
    o,s = torch.randn(B,len(default),4,generator=g)*.3,torch.randn(B,len(default),C,generator=g)*.3
    if kind=='sparse':
        s[...,0] += 8
        for b in range(B):
            for j in torch.randint(len(default),(5,),generator=g).tolist():
                near = box_iou(default[j:j+1],default)[0]>.4
                s[b,near,int(torch.randint(1,C,(1,),generator=g))] += 8+torch.randn(int(near.sum()),generator=g)
    return s,o

def main(rounds:int=15):
    torch.set_num_threads(1); g = torch.Generator().manual_seed(0)
    default,coder,tv = published_boxes('ssd300_coco').boxes,BoxCoder(),tv_ssd300(weights=None,weights_backbone=None)
    for device in ['cpu']+(['cuda'] if torch.cuda.is_available() else []):
        anchors = [(default*300).to(device)]*4; d = default.to(device)
        print(f'{device}, 1 thread, torch {torch.__version__}, milliseconds for a photo; median of {rounds}')
        for C in (91,4):
            for kind in ('sparse','dense'):
                times = dict(torchvision=[],ours=[])
                for i in range(rounds+2):
                    s,o = (x.to(device) for x in outputs(kind,C,g,default))
                    fs = dict(torchvision=lambda: tv.postprocess_detections(dict(bbox_regression=o,cls_logits=s), anchors, [(300,300)]*4), ours=lambda: detect((s,o), d, coder, [(300,300)]*4, list(range(C-1))))
                    res = {}
                    for k,f in fs.items():
                        if device=='cuda': torch.cuda.synchronize()
                        t = time.perf_counter(); res[k] = f()
                        if device=='cuda': torch.cuda.synchronize()
                        if i>1: times[k].append(250*(time.perf_counter()-t))
                    for a,b in zip(res['torchvision'],res['ours']): assert len(a['scores'])==len(b) and torch.allclose(a['scores'].cpu(),b.scores,atol=1e-5)
                med = {k:statistics.median(v) for k,v in times.items()}
                print(f'{C:2} scores, {kind:6}: torchvision {med["torchvision"]:6.2f}, ours {med["ours"]:6.2f} ({med["torchvision"]/med["ours"]:.2f}x), {sum(map(len,res["ours"]))/4:.0f} detections', flush=True)

if __name__=='__main__': main(*map(int,sys.argv[1:]))

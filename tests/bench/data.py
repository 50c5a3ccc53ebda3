"""Photos per second of loading, in one process and with two workers, in one run, the variants in turn.

    [SSD_FASTAI_DATA=/folder/with/bccd] python tests/bench/data.py [rounds]

floor: PIL decode and resize. fastai Resize: decode and fastai's item transform (no boxes). torchvision v2: the recipe of torchvision's
detection reference for SSD (photometric distortion, zoom out, IoU crop, flip), then resize. ours: `ssd_tfms(paper=True)` and `ssd_tfms()`,
with light on the batch. Medians over the rounds; ratios are of medians of the same run. With two workers each makes whole batches of 16, and a
round is 320 photos, the start of the workers included.
"""
import os, random, statistics, sys, time, warnings
warnings.filterwarnings('ignore')
from torchvision import tv_tensors
from torchvision.transforms import v2
from ssd_fastai.all import *
from ssd_fastai.data.block import BoxCategorize, record_boxes, record_photo

def variants(ann, size):
    cat = BoxCategorize(ann.vocab)
    tv = v2.Compose([v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill={tv_tensors.Image:(124,116,104),'others':0}), v2.RandomIoUCrop(), v2.RandomHorizontalFlip(),
                     v2.Resize(size, antialias=True), v2.SanitizeBoundingBoxes(), v2.ToDtype(torch.float32, scale=True)])
    def to_float(im): return torch.from_numpy(np.array(im)).permute(2,0,1).contiguous()
    def floor(rs): return torch.stack([to_float(open_photo(r.path).resize(size[::-1], Image.Resampling.BILINEAR)) for r in rs]).float()/255
    resize = Resize(size, method='squish')
    def fastai_resize(rs): return torch.stack([to_float(resize(PILImage(open_photo(r.path)), split_idx=0)) for r in rs]).float()/255
    def torchvision(rs):
        res = []
        for r in rs:
            im = tv_tensors.Image(to_float(open_photo(r.path)))
            boxes = tv_tensors.BoundingBoxes(torch.from_numpy(r.boxes), format='XYXY', canvas_size=im.shape[-2:])
            res.append(tv(dict(image=im, boxes=boxes, labels=cat.encodes(r.labels).as_subclass(Tensor)))['image'])
        return torch.stack(res)
    def ours(paper):
        items,batch = ssd_tfms(size, paper=paper)
        def f(rs):
            xs = [items[0]((record_photo(r),record_boxes(r),cat.encodes(r.labels)), split_idx=0) for r in rs]
            return batch[0](TensorImage(torch.stack([to_float(x[0]) for x in xs]).float()/255), split_idx=0)
        return f
    return {'floor':floor,'fastai Resize':fastai_resize,'torchvision v2':torchvision,'ssd_tfms(paper=True)':ours(True),'ssd_tfms()':ours(False)}

def table(title, times):
    med = {k:statistics.median(v) for k,v in times.items()}
    print(f'\n{title}, to 300x300, 1 thread, torch {torch.__version__}')
    for k,v in med.items(): print(f'{k:22} {v:6.0f} photos/s   {v/med["torchvision v2"]:.2f} of torchvision v2   {v/med["floor"]:.2f} of the floor', flush=True)

class Batches(torch.utils.data.Dataset):
    def __init__(self, parts, f): self.parts,self.f = parts,f
    def __len__(self): return len(self.parts)
    def __getitem__(self, i): return self.f(self.parts[i])

def two_workers(f, rs):
    "Photos per second when two processes make the batches"
    dl = torch.utils.data.DataLoader(Batches([rs[j:j+16] for j in range(0,len(rs),16)],f), batch_size=None, num_workers=2)
    t = time.perf_counter(); n = sum(len(x) for x in dl)
    return n/(time.perf_counter()-t)

def main(rounds:int=7):
    torch.set_num_threads(1)
    path = make_cells(); sets = {'sample 320x240':read_coco(path/'train.json',path/'images')}
    if os.environ.get('SSD_FASTAI_DATA'):
        p = Path(os.environ['SSD_FASTAI_DATA'])/'bccd'; sets['BCCD 640x480'] = read_voc(p/'JPEGImages',p/'Annotations',p/'ImageSets/Main/train.txt')
    for name,ann in sets.items():
        vs,times = variants(ann,(300,300)),{}
        for i in range(rounds+1):
            rs = random.Random(i).sample(ann.records,48)
            for k,f in vs.items():
                t = time.perf_counter(); [f(rs[j:j+16]) for j in range(0,48,16)]; t = time.perf_counter()-t
                if i: times.setdefault(k,[]).append(48/t)
        table(f'{name}, one process', times); times = {k:[] for k in vs}
        for i in range(max(rounds//2,1)):
            rs = random.Random(i).choices(ann.records,k=320)
            for k,f in vs.items(): times[k].append(two_workers(f, rs))
        table(f'{name}, two workers', times)

if __name__=='__main__': main(*map(int,sys.argv[1:]))

"""Photos per second of loading, in one process and with two workers, in one run, the variants in turn.

    [SSD_FASTAI_DATA=/folder/with/bccd] python tests/bench/data.py [rounds]

floor: PIL decode and resize. fastai Resize: decode and fastai's item transform (no boxes). torchvision v2: the recipe
of torchvision's detection reference for SSD (photometric distortion, zoom out, IoU crop, flip), then resize. ours:
`ssd_tfms(paper=True)` and `ssd_tfms()`, with light on the batch. Medians over the rounds; ratios are of medians of the
same run. With two workers each makes whole batches of 16, and a round is 320 photos, the start of the workers included.
"""
import os, random, sys, warnings
warnings.filterwarnings('ignore')
from torchvision import tv_tensors
from torchvision.transforms import v2
from ssd_fastai.all import *
from ssd_fastai.data.block import BoxCategorize, record_boxes, record_photo
from augment import torchvision_ssd
from clock import medians, seconds
from photos import bccd, sample

def pixels(im): return torch.from_numpy(np.array(im)).permute(2,0,1).contiguous()

def stacked(ims): return torch.stack([pixels(o) for o in ims]).float()/255

def floor(rs, size): return stacked(open_photo(r.path).resize(size[::-1], Image.Resampling.BILINEAR) for r in rs)

def fastai_resize(rs, size):
    resize = Resize(size, method='squish')
    return stacked(resize(PILImage(open_photo(r.path)), split_idx=0) for r in rs)

def torchvision_batch(rs, size, cat):
    tfm = v2.Compose([torchvision_ssd(size), v2.ToDtype(torch.float32, scale=True)])
    res = []
    for r in rs:
        im = tv_tensors.Image(pixels(open_photo(r.path)))
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(r.boxes), format='XYXY', canvas_size=im.shape[-2:])
        res.append(tfm(dict(image=im, boxes=boxes, labels=cat.encodes(r.labels).as_subclass(Tensor)))['image'])
    return torch.stack(res)

def our_batch(rs, cat, items, batch):
    xs = [items[0]((record_photo(r),record_boxes(r),cat.encodes(r.labels)), split_idx=0) for r in rs]
    return batch[0](TensorImage(stacked(x[0] for x in xs)), split_idx=0)

def variants(ann, size):
    "Functions from records to a batch"
    cat = BoxCategorize(ann.vocab)
    tfms = {'ssd_tfms(paper=True)':ssd_tfms(size, paper=True), 'ssd_tfms()':ssd_tfms(size)}
    return {'floor':          partial(floor, size=size),
            'fastai Resize':  partial(fastai_resize, size=size),
            'torchvision v2': partial(torchvision_batch, size=size, cat=cat),
            **{k:partial(our_batch, cat=cat, items=items, batch=batch) for k,(items,batch) in tfms.items()}}

def table(title, rates):
    med = medians(rates)
    print(f'\n{title}, to 300x300, 1 thread, torch {torch.__version__}')
    for k,v in med.items():
        print(f'{k:22} {v:6.0f} photos/s   {v/med["torchvision v2"]:.2f} of torchvision v2   '
              f'{v/med["floor"]:.2f} of the floor', flush=True)

def batches(rs): return [rs[i:i+16] for i in range(0,len(rs),16)]

class Batches(torch.utils.data.Dataset):
    def __init__(self, parts, f): self.parts,self.f = parts,f
    def __len__(self): return len(self.parts)
    def __getitem__(self, i): return self.f(self.parts[i])

def two_workers(f, rs):
    "Photos per second when two processes make the batches"
    dl = torch.utils.data.DataLoader(Batches(batches(rs),f), batch_size=None, num_workers=2)
    t,n = seconds(lambda: sum(len(x) for x in dl))
    return n/t

def one_process(f, rs):
    "Photos per second"
    return len(rs)/seconds(lambda: [f(o) for o in batches(rs)])[0]

def rates(fs, ann, rounds, measure, n):
    "Photos per second of each function in each round, all on the same photos"
    res = {k:[] for k in fs}
    for i in range(rounds):
        rs = random.Random(i).choices(ann.records, k=n)
        for k,f in fs.items(): res[k].append(measure(f, rs))
    return res

def main(rounds:int=7):
    torch.set_num_threads(1)
    sets = {'sample 320x240':sample()[0]}
    if os.environ.get('SSD_FASTAI_DATA'): sets['BCCD 640x480'] = bccd(['train'])[0]
    for name,ann in sets.items():
        fs = variants(ann, (300,300))
        for f in fs.values(): f(ann.records[:48])   # warm up
        table(f'{name}, one process', rates(fs, ann, rounds, one_process, 48))
        table(f'{name}, two workers', rates(fs, ann, max(rounds//2,1), two_workers, 320))

if __name__=='__main__': main(*map(int,sys.argv[1:]))

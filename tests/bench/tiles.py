"""Small objects on large photos: AP50 of each class with and without tiles.

    python tests/bench/tiles.py [seed,seed,…] [epochs]

The detector is that of the README's main job, with more epochs. Sixteen validation smears, each as large as in training, become
one photo that is four times as wide and four times as high; three such photos. Behind it how many objects were found
twice: in the large photos by tiles, and in the 48 smears one by one.
"""
import contextlib, io, sys, tempfile, warnings
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
import torch
from ssd_fastai.all import *
from torchvision.ops import box_iou
from ssd_fastai.train.metrics import by_class
from ssd_fastai.use.cli import ssd_train

def pasted(records, vocab, across=4):
    "(photo, boxes, labels) of many smears side by side"
    w,h = records[0].size
    photo,boxes,labels = Image.new('RGB',(across*w,across*h)),[],[]
    for i,r in enumerate(records):
        at = (i%across*w,i//across*h)
        photo.paste(open_photo(r.path), at)
        boxes.append(r.boxes+np.tile(at,2))
        labels += [vocab.index(l) for l in r.labels]
    return photo,torch.from_numpy(np.concatenate(boxes)).float(),torch.tensor(labels)

def twice(det, boxes, labels):
    "Detections of an object (IoU of .5, right class) that another detection with a higher score has found already"
    if not len(boxes): return 0
    iou = box_iou(det.boxes.float(), boxes)*(det.labels[:,None]==labels)
    best,obj = iou.max(1)
    hit = obj[best>=.5]
    return len(hit)-len(hit.unique())

def main(seeds='1,2,3', epochs=8):
    torch.set_num_threads(1)
    for seed in map(int,seeds.split(',')):
        with tempfile.TemporaryDirectory() as d,contextlib.redirect_stdout(io.StringIO()):
            learn = ssd_train(out=d, epochs=int(epochs), seed=seed)
        valid = make_cells()
        valid = read_coco(valid/'valid.json', valid/'images')
        photos = [pasted(valid[i:i+16], learn.dls.vocab) for i in range(0,48,16)]
        rows = {}
        for name,tiles in (('whole',None),('tiles',True)):
            ev = CocoEvaluator(1000)
            for im,b,l in photos: ev.add(learn.predict(im, min_score=.01, tiles=tiles, keep=1000), b, l)
            rows[f'{name}, AP50'] = by_class(ev).AP50
        n = sum(twice(learn.predict(im, tiles=True), b, l) for im,b,l in photos)
        one = sum(twice(learn.predict(im), b, l) for im,b,l in (pasted([r],learn.dls.vocab,1) for r in valid[:48]))
        print(f'seed {seed}: validation AP50 of single smears {learn.ap_per_class().AP50.round(3).to_dict()}')
        print(pd.DataFrame(rows).round(3), f'\nfound twice: {n} in tiles, {one} one by one\n', flush=True)

if __name__=='__main__': main(*sys.argv[1:])

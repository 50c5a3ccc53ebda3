"The photos that the benches share: (training, validation)"
import os
import numpy as np
from PIL import Image, ImageFilter
from ssd_fastai.all import Path
from ssd_fastai.data.annotations import Annotations, Record, read_coco
from ssd_fastai.data.formats import read_voc
from ssd_fastai.data.sample import blob, make_cells, mask_box, paint_wbc

def sample():
    "The painted smears"
    path = make_cells()
    return [read_coco(path/f'{o}.json', path/'images') for o in ('train','valid')]

def bccd(splits=('trainval','test')):
    "BCCD, from the folder that SSD_FASTAI_DATA names"
    path = Path(os.environ['SSD_FASTAI_DATA'])/'bccd'
    return [read_voc(path/'JPEGImages', path/'Annotations', path/f'ImageSets/Main/{o}.txt') for o in splits]

def _ground(rng, w, h):
    "A ground of random colors: a slope, clouds, stripes and a few shapes"
    a,b = rng.uniform(0,1,(2,3))
    slope = np.linspace(0,rng.normal(),w)[None] + np.linspace(0,rng.normal(),h)[:,None]
    slope = (slope-slope.min())/(np.ptp(slope)+1e-6)
    img = a+(b-a)*slope[...,None]
    n = rng.integers(3,12)
    clouds = rng.uniform(-.25,.25,(n,n,3)).astype(np.float32)
    img += np.stack([np.asarray(Image.fromarray(clouds[...,c]).resize((w,h),Image.BICUBIC)) for c in range(3)], -1)
    y,x = np.mgrid[:h,:w]
    turn = rng.uniform(0,3.1)
    img += rng.uniform(0,.15)*np.sin(rng.uniform(.02,.3)*(x*np.cos(turn)+y*np.sin(turn)))[...,None]
    for _ in range(rng.integers(2,9)):
        m = blob(rng, rng.uniform(0,w), rng.uniform(0,h), rng.uniform(.05,.25)*h, (w,h), .3, rng.uniform(.4,2.))
        img += (m*rng.uniform(.4,1))[...,None]*(rng.uniform(0,1,3)-img)
    return img.clip(0,1).astype(np.float32)

def draw_large(rng, size=(320,240)):
    "(photo, box): one large white cell, in any stain, on varied ground"
    w,h = size
    img,r = _ground(rng,w,h),rng.uniform(.2,.45)*h
    x,y = (rng.uniform(min(.8*r,s/2), max(s-.8*r,s/2)) for s in size)
    m = paint_wbc(img, rng, x, y, r, rng.uniform(.7,1.2,3))
    im = Image.fromarray((img.clip(0,1)*255).astype(np.uint8))
    return im.filter(ImageFilter.GaussianBlur(rng.uniform(.2,1.5))),mask_box(m)

def large(folder, n=130, n_valid=40, seed=3):
    "Photos with one large object each, as people have them who start"
    records = []
    for i in range(n+n_valid):
        im,box = draw_large(np.random.default_rng([seed,i]))
        file = Path(folder)/f'{i:04}.jpg'
        im.save(file, quality=92)
        records.append(Record(file, im.size, np.float32([box]), ['cell']))
    return Annotations(records[:n],['cell']),Annotations(records[n:],['cell'])

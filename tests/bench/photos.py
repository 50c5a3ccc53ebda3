"The photos that the benches share: (training, validation)"
import os
from ssd_fastai.all import Path
from ssd_fastai.data.annotations import read_coco
from ssd_fastai.data.formats import read_voc
from ssd_fastai.data.sample import make_cells

def sample():
    "The painted smears"
    path = make_cells()
    return [read_coco(path/f'{o}.json', path/'images') for o in ('train','valid')]

def bccd(splits=('trainval','test')):
    "BCCD, from the folder that SSD_FASTAI_DATA names"
    path = Path(os.environ['SSD_FASTAI_DATA'])/'bccd'
    return [read_voc(path/'JPEGImages', path/'Annotations', path/f'ImageSets/Main/{o}.txt') for o in splits]

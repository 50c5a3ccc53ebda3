import os, warnings
from pathlib import Path
import matplotlib, pytest
matplotlib.use('Agg')
from ssd_fastai.all import *

@pytest.fixture(scope='session')
def cells(): return make_cells()

@pytest.fixture(scope='session')
def train(cells): return read_coco(cells/'train.json', cells/'images')

@pytest.fixture(scope='session')
def valid(cells): return read_coco(cells/'valid.json', cells/'images')

@pytest.fixture(scope='session')
def bccd():
    data = os.environ.get('SSD_FASTAI_DATA')
    if not data: pytest.skip('SSD_FASTAI_DATA is not set: it is the folder that holds bccd/')
    return Path(data)/'bccd'

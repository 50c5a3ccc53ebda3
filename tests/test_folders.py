"Folders as labeling tools leave them: what they are taken for, and what is read"
import shutil
import pytest
from ssd_fastai.all import *
from ssd_fastai.use.cli import ssd_train

@pytest.fixture
def few(valid): return valid[:9]

def copy(ann, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for r in ann: shutil.copy(r.path, folder)

def coco(ann, file, imgs=None):
    "A COCO file, with its photos in a folder"
    file.parent.mkdir(parents=True, exist_ok=True)
    ann.to_coco(file)
    copy(ann, imgs or file.parent)

def roboflow_coco(a, d):
    for n,s in (('train',a[:5]),('valid',a[5:7]),('test',a[7:])): coco(s, d/n/'_annotations.coco.json')
def coco_2017(a, d):
    for n,s in (('train2017',a[:5]),('val2017',a[5:])): coco(s, d/f'annotations/instances_{n}.json', d/n)
def cvat_coco(a, d): coco(a, d/'annotations/instances_default.json', d/'images')
def label_studio(a, d): coco(a, d/'result.json', d/'images')
def ultralytics(a, d):
    a[:5].to_yolo(d)
    a[5:].to_yolo(d,'valid')
def roboflow_yolo(a, d):
    for n,s in (('train',a[:5]),('valid',a[5:7]),('test',a[7:])):
        s.to_yolo(d/'tmp')
        shutil.move(d/'tmp/images/train', d/n/'images')
        shutil.move(d/'tmp/labels/train', d/n/'labels')
        shutil.rmtree(d/'tmp')
    names = ', '.join(a.vocab)
    (d/'data.yaml').write_text(f'train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 3\nnames: [{names}]\n')
def roboflow_voc(a, d):
    for n,s in (('train',a[:5]),('valid',a[5:7]),('test',a[7:])):
        s.to_voc(d/n)
        copy(s, d/n)
def labelimg(a, d):
    a.to_voc(d)
    copy(a, d)
def two_folders(a, d):
    a.to_voc(d/'my labels')
    copy(a, d/'my photos')
def table(a, d):
    copy(a, d/'images')
    a.to_csv(d/'boxes.csv')

def ours(a, d):
    for n,s in (('train',a[:5]),('valid',a[5:])): coco(s, d/f'{n}.json', d/'images')
def devkit(a, d):
    a.to_voc(d/'Annotations')
    copy(a, d/'JPEGImages')
    (d/'ImageSets/Main').mkdir(parents=True)
    for n,s in (('train',a[:5]),('val',a[5:])): (d/f'ImageSets/Main/{n}.txt').write_text('\n'.join(r.path.stem for r in s))
def roboflow_csv(a, d):
    for n,s in (('train',a[:5]),('valid',a[5:7]),('test',a[7:])):
        copy(s, d/n)
        rows = [(r.path.name,*r.size,l,*b) for r in s for l,b in zip(r.labels,r.boxes.tolist())]
        cols = ['filename','width','height','class','xmin','ymin','xmax','ymax']
        pd.DataFrame(rows, columns=cols).to_csv(d/n/'_annotations.csv', index=False)

layouts = [(roboflow_coco,(5,2)), (coco_2017,(5,4)), (cvat_coco,(7,2)), (label_studio,(7,2)), (ultralytics,(5,4)),
           (roboflow_yolo,(5,2)), (roboflow_voc,(5,2)), (labelimg,(7,2)), (two_folders,(7,2)), (table,(7,2)), (ours,(5,4)),
           (devkit,(5,4)), (roboflow_csv,(5,2))]

def test_a_test_part_that_validates_is_named(few, tmp_path, capsys):
    "VOC with trainval and test, as BCCD: the reader must know that the detector was tuned on the test part"
    devkit(few, tmp_path)
    for old,new in (('train','trainval'),('val','test')):
        (tmp_path/f'ImageSets/Main/{old}.txt').rename(tmp_path/f'ImageSets/Main/{new}.txt')
    pair = read_folder(tmp_path)
    assert tuple(map(len,pair))==(5,4) and 'called test is used for validation' in capsys.readouterr().out
    assert len(read_folder(tmp_path, part='test'))==4

@pytest.mark.parametrize('write,want', layouts)
def test_each_tool(few, tmp_path, capsys, write, want):
    write(few, tmp_path/'x')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pair = read_folder(tmp_path/'x')
    said = capsys.readouterr().out
    assert tuple(map(len,pair))==want and ('left out: test' in said)==('roboflow' in write.__name__)
    if 'roboflow' in write.__name__:
        assert len(read_folder(tmp_path/'x', part='test'))==2
        with pytest.raises(ValueError, match="no part 'holdout': its parts are t"): read_folder(tmp_path/'x', part='holdout')
    with pytest.raises(TypeError): BBoxDataLoaders.from_folder(tmp_path/'x', 160) # it would be taken for drop_bad
    had = {r.path.name:(sorted(r.labels),r.boxes.sum()) for r in few}
    for r in (r for a in pair for r in a):
        labels,total = had[r.path.name]
        assert sorted(r.labels)==labels and abs(r.boxes.sum()-total)<2+.01*len(labels)*r.size[0]
    assert not {r.path for r in pair[0]} & {r.path for r in pair[1]}

@pytest.mark.parametrize('write,want', layouts)
def test_the_terminal_trains_on_each(few, tmp_path, capsys, write, want):
    write(few, tmp_path/'x')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = ssd_train(str(tmp_path/'x'), str(tmp_path/'o'), arch='resnet10t', epochs=1, size='64', bs=2,
                          test='test' if 'roboflow' in write.__name__ else None)
    assert tuple(map(len,learn.dls.records))==want and (tmp_path/'o/detector.pkl').is_file()
    said = capsys.readouterr().out
    assert 'AP50' in said and ("photos of the part 'test'" in said)==('roboflow' in write.__name__)

def test_two_that_fit_and_none(few, tmp_path):
    labelimg(few, tmp_path/'x')
    coco(few, tmp_path/'x/train.json')
    with pytest.raises(ValueError, match='looks like coco .* and voc .*layout="coco"'): read_folder(tmp_path/'x')
    assert sum(map(len,read_folder(tmp_path/'x',layout='voc')))==9
    copy(few, tmp_path/'y')
    with pytest.raises(FileNotFoundError, match=r'holds 9 \.jpg.*Known are'): read_folder(tmp_path/'y')
    with pytest.raises(ValueError, match="layout='x'"): read_folder(tmp_path/'y', layout='x')
    with pytest.raises(FileNotFoundError, match='no folder'): read_folder(tmp_path/'z')

def test_from_folder(few, tmp_path):
    roboflow_yolo(few, tmp_path/'x')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        dls = BBoxDataLoaders.from_folder(tmp_path/'x', size=64, bs=2)
    assert dls.vocab==few.vocab and dls.size==(64,64) and len(dls.records[0])==5

def test_parts_without_a_training_part(few, tmp_path):
    for n,s in (('valid',few[:5]),('test',few[5:])): coco(s, tmp_path/n/'_annotations.coco.json')
    with pytest.raises(ValueError, match='None of the parts test, valid is called train'): read_folder(tmp_path)

@pytest.mark.parametrize('files,want', [(('trainval','val'),(5,2)), (('train','val','trainval'),(4,3))])
def test_voc_parts_that_overlap_never_leak(few, tmp_path, files, want):
    few.to_voc(tmp_path/'Annotations')
    copy(few, tmp_path/'JPEGImages')
    stems = [r.path.stem for r in few]
    parts = dict(train=stems[:4], val=stems[4:7], trainval=stems[:7])
    (tmp_path/'ImageSets/Main').mkdir(parents=True)
    for f in files: (tmp_path/f'ImageSets/Main/{f}.txt').write_text('\n'.join(parts[f]))
    t,v = read_folder(tmp_path)
    assert not {r.path for r in t}&{r.path for r in v} and len(t)+len(v)==7
    if files[0]=='train': assert (len(t),len(v))==want

def test_warnings_point_at_the_line_of_the_caller(few, tmp_path):
    "However deep they arise: when labels are read, when a learner is made"
    few.to_yolo(tmp_path/'x', 'train')
    few.to_yolo(tmp_path/'x', 'valid')
    f = next((tmp_path/'x/labels/train').glob('*.txt'))
    f.write_text(f.read_text()+'0 .5 .5 0 .2\n')
    with pytest.warns(BoxWarning) as said: train,valid = read_folder(tmp_path/'x')
    with pytest.warns(UserWarning, match='not a multiple') as more:
        ssd_learner(BBoxDataLoaders.from_annotations(train, valid, size=(66,99), bs=4), 'resnet10t', pretrained=False)
    assert {w.filename for w in (*said,*more) if w.category in (UserWarning,BoxWarning)}=={__file__}

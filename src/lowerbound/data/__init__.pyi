# Every public name, once.
from .catalogue import CATALOGUE as CATALOGUE
from .catalogue import NamedDataset as NamedDataset
from .columns import Column as Column
from .columns import Schema as Schema
from .dataset import Dataset as Dataset
from .describing import inspect_table as inspect_table
from .examples import Examples as Examples
from .load import load_data as load_data
from .options import Pixels as Pixels
from .preprocessing import Preprocessing as Preprocessing
from .sprites import make_sprites as make_sprites

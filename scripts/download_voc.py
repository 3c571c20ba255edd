"""`ssdlite download voc`, from a clone: fetch PASCAL VOC 2007 and 2012 into a folder.

python scripts/download_voc.py DIR [--split SPLIT]... [--base-url URL]
"""

import sys

from ssdlite.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["download", "voc"]
    main()

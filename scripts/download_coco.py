"""`ssdlite download coco`, from a clone: fetch COCO 2017 into a folder.

python scripts/download_coco.py DIR [--split SPLIT]... [--base-url URL]
"""

import sys

from ssdlite.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["download", "coco"]
    main()

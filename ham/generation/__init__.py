"""Stage 3: caption a folder of images, restartable at any instant.

filters decides what is a caption, styles which style an image gets, plan what the job is, shards where its rows lie, locks
who may write them, run does the work, merge puts `captions.json` together, status, measure and samples look at it.
"""

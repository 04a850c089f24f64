"""Sources of builds: readers of public data layouts that yield rows of images with captions and edits."""

/* discover.h - databases that lie below the directory and that no log knows: found by a walk, since nobody may open them
 * for a long time and they are to be kept all the same. */
#ifndef FZ_FS_DISCOVER_H
#define FZ_FS_DISCOVER_H

struct fs_capture;

/* Walks the tree once in the life of c; later calls, and calls meanwhile, return when the walk is done. What it finds is LOST
 * afterwards ("not seen before"), so that the keeper makes its first transaction. Takes no lock of the caller's. */
void fs_discover(struct fs_capture *c);

/* A file that is no database was closed. Only the first one counts. */
void fs_discover_other(struct fs_capture *c, const char *path, int fd);

#endif

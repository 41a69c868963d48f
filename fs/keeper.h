/* keeper.h - the thread for what takes long: background compares, the scrub, retries, the bound of the log. */
#ifndef FZ_FS_KEEPER_H
#define FZ_FS_KEEPER_H

void fs_keeper_run(void *capture);

#endif

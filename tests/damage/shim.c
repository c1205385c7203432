/* A disk, as far as fsync can tell: loaded in front of the C library, by LD_PRELOAD.
 *
 * DISK_CONTROL names a file with one line, `MODE TARGET NUMBER GENERATION`, that is read at each fsync of a
 * file whose name ends in TARGET, or of any:
 *
 *     fail    the NUMBERth of this GENERATION fails with EIO, once; then there is a file its name with .failed
 *     lie     it returns 0, and nothing is on the disk
 *     slow    it takes NUMBER milliseconds longer
 *
 * At each one that is honest the file is copied to FILE.synced: that much is on the disk, whatever happens.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int ends_with(const char *text, const char *end) {
    size_t size = strlen(text), most = strlen(end);
    return size >= most && strcmp(text + size - most, end) == 0;
}

static void keep(const char *name) {
    char part[PATH_MAX + 16], whole[PATH_MAX + 16], bytes[1 << 16];
    ssize_t count;
    snprintf(part, sizeof part, "%s.part", name);
    snprintf(whole, sizeof whole, "%s.synced", name);
    int from = open(name, O_RDONLY), to = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while ((count = read(from, bytes, sizeof bytes)) > 0)
        if (write(to, bytes, count) != count) abort();
    close(from);
    close(to);
    rename(part, whole);
}

static int sync_file(int file, const char *function) {
    static long seen = -1, left = 0;
    char link[64], name[PATH_MAX + 1] = "", mode[16] = "", target[64] = "", mark[PATH_MAX + 16];
    long number = 0, generation = 0;
    const char *control = getenv("DISK_CONTROL");
    struct stat found;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, name, PATH_MAX);
    name[size > 0 ? size : 0] = 0;
    FILE *said = control ? fopen(control, "r") : NULL;
    if (said) {
        if (fscanf(said, "%15s %63s %ld %ld", mode, target, &number, &generation) != 4) mode[0] = 0;
        fclose(said);
    }
    if (mode[0] && (!strcmp(target, "any") || ends_with(name, target))) {
        if (generation != seen) {
            seen = generation;
            left = number;
        }
        if (!strcmp(mode, "lie")) return 0;
        if (!strcmp(mode, "slow")) usleep(number * 1000);
        if (!strcmp(mode, "fail") && left > 0 && --left == 0) {
            snprintf(mark, sizeof mark, "%s.failed", control);
            close(open(mark, O_WRONLY | O_CREAT, 0600));
            errno = EIO;
            return -1;
        }
    }
    /* Locks of POSIX are gone when any descriptor of the file is closed: only SQLite's -shm and the
       database have them, and one process alone has those open. */
    if (fstat(file, &found) == 0 && S_ISREG(found.st_mode)) keep(name);
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, function);
    return real(file);
}

int fsync(int file) { return sync_file(file, "fsync"); }
int fdatasync(int file) { return sync_file(file, "fdatasync"); }

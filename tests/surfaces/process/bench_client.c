/* open+read+close, read alone, stat, store: microseconds each (median of blocks). argv: read-path store-path n */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e6 + t.tv_nsec / 1e3; }
static int cmp(const void *a, const void *b) { double d = *(double *)a - *(double *)b; return (d > 0) - (d < 0); }
#define MEASURE(what, body) do { for (int b = 0; b < 21; b++) { double t = now(); for (int i = 0; i < n; i++) { body; } v[b] = (now() - t) / n; } \
	qsort(v, 21, sizeof *v, cmp); printf("%-20s %6.1f us (best %.1f)\n", what, v[10], v[0]); fflush(stdout); } while (0)
int main(int argc, char **argv)
{
	char buf[4096]; double v[21]; struct stat st; int n = atoi(argv[3]), fd;
	MEASURE("open+read+close", fd = open(argv[1], O_RDONLY); if (fd < 0 || read(fd, buf, sizeof buf) <= 0) return 1; close(fd));
	MEASURE("open+write+close", fd = open(argv[2], O_WRONLY); if (fd < 0 || write(fd, "1\n", 2) != 2) return 1; close(fd));
	MEASURE("open+close", fd = open(argv[1], O_RDONLY); close(fd));
	fd = open(argv[1], O_RDONLY);
	MEASURE("pread", if (pread(fd, buf, sizeof buf, 0) <= 0) return 1);
	close(fd);
	fd = open(argv[2], O_WRONLY);
	MEASURE("pwrite", if (pwrite(fd, "1\n", 2, 0) != 2) return 1);
	close(fd);
	MEASURE("stat", if (stat(argv[1], &st)) return 1);
	MEASURE("open ENOENT", open("/sys/devices/toy/nothing", O_RDONLY));
	return argc == 4 ? 0 : 1;
}
